"""Heads: bases, networks, families, starts and costs."""
