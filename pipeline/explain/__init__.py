"""Looking inside heads: importance, pruning, symbols, formulas, finer grids, forgetting."""
