"""A training run, from the checked settings to the finished encoder."""
