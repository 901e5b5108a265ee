"""What is read of pex without running it."""

__version__ = "2.105.2"
