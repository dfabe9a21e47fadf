"""The trainer's step on NVIDIA GPUs: Triton kernels and the engine that drives them."""
