"""The ways to find where in an image something is, by their names. Imports nothing."""

WINDOWS, DENSE = "windows", "dense"
METHODS = (WINDOWS, DENSE)
# The better one of benchmarks/locate.py, where the encoder gives patches.
DEFAULT_METHOD = DENSE
