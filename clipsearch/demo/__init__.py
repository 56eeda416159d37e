"""A whole road on images drawn here."""
