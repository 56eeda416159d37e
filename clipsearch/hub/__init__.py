"""Encoders of the Hugging Face hub with ONNX towers: fetched, checked, made a folder."""
