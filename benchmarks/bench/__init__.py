"""What `embed.py bench` and `fit_heads.py bench` measure; the installed package does without."""
