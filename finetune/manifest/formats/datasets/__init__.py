"""Published data sets as their makers spread them, whose captions lie apart from their images."""
