"""What an index has acknowledged, and whether it still holds it."""
