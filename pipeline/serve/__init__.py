"""Trained heads at work: predictions for texts, and GLUE's test files."""
