"""Gradients of a batch: at once, chunk by chunk, and over several processes."""
