"""The embedded engine: an index is a folder."""
