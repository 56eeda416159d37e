"""Encoder folders, ONNX towers, OpenCLIP's layout, model cards, uploads."""
