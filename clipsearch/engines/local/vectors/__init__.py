"""Vectors of the embedded index: stored once, compared through one bit a dimension."""
