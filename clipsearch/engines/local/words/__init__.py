"""Words of the embedded index: what the terms of a query match, and which words there are."""
