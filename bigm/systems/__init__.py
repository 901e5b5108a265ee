"""The places machines come from, one file each. Driver side only."""
