"""What an image shows: which of several labels it has, and which captions of an index fit it."""
