"""Stage one: tokenise, pack, forward, pool, reduce, and write the cache.

Importing this package imports no torch; :mod:`pipeline.encode.run` loads an encoder only where rows are missing.
"""
