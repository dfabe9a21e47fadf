"""Training: data, the step of a pack, the optimiser, the loop."""
