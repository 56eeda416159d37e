"""Indexes of other programs: their images, with the vectors that those programs made of them."""
