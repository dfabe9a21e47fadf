"""The commands of embed.py and fit_heads.py: click only, no logic."""
