"""Encoder and head trained together: the baselines that a head on a frozen cache is compared with.

Reading order: `options` (what is chosen), `data` (a cache's texts as token batches), `model` (encoder, pooling, head),
`training` (transformers' Trainer with our order, selection and checkpoints), `run` (one head from cache to results).

A fine-tuned model is stored as two things that the rest of the project already knows: an encoder folder, which
`embed.py run --encoder` takes like any other, and a head whose provenance names that encoder, which `predict`, `submit`
and `export` take like any head.
"""
