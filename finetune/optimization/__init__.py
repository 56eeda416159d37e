"""What takes the steps: optimizers, learning rates from step to step, precisions.

Each file holds a registry by name and imports without torch, so that settings can be checked and
shown without it.
"""
