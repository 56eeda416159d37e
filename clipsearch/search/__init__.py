"""Queries as people write them, and their answers."""
