"""Training: data, the step of a pack, the optimiser, the loop. Called, it is the verb `pipeline.fit(...)`."""

from pipeline import _verb

_verb(__name__)
