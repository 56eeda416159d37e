"""Vespa as an engine: requests, answers, feeding, filters, and what an index knows about itself."""
