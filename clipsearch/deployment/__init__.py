"""Render and deploy the Vespa application package."""
