"""The dual encoders: pretrained, OpenCLIP's, two towers joined, tiny; and what changes them."""
