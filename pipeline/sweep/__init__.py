"""Sweeps: specification, packs, results."""
