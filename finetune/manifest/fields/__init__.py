"""What stands in one field, or one sample, of a manifest's files."""
