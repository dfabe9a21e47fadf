"""Sweeps: specification, packs, results. Called, it is the verb `pipeline.sweep(...)`."""

from pipeline import _verb

_verb(__name__)
