"""The HTTP service over `Search`: `clipsearch serve`."""
