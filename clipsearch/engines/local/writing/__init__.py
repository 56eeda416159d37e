"""Writing an embedded index: batches as they come, and what the end of a feed tidies."""
