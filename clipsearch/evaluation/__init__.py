"""Measure an encoder folder on a manifest."""
