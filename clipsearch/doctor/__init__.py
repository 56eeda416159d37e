"""Looks after a whole installation: what works, what does not, and the mend."""
