"""Near duplicates in an index: found by content, look and embedding, shown, and marked."""
