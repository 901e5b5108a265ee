"""Stands in for pex where the real one would need a network: records how it is called, and makes what it should."""
