"""Vespa over HTTP: connection, requests, answers, feeding, the package and its deployment."""
