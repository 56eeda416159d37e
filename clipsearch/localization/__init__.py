"""Where in an image something is: how strongly each part of it answers a query."""
