"""Immutable segments of the embedded index: words, tags and numbers of some of its documents."""
