"""Heads for use elsewhere: as one PyTorch file, as the original packages' weights, as ONNX; and back again.

Called, it is the verb `pipeline.export(...)`.
"""

from pipeline import _verb

_verb(__name__)
