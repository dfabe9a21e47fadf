"""Heads for use elsewhere: as one PyTorch file, as the original packages' weights, as ONNX; and back again."""
