"""Bring an index to what a manifest says."""
