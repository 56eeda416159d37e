"""From captioned images to batches of tensors."""
