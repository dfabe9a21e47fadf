"""The commands of embed.py and fit_heads.py: click only, no logic."""

import sys
from pathlib import PurePath

if PurePath(sys.argv[0]).stem in ("embed", "fit_heads", "kanglue-embed", "kanglue-heads"):
    # Before anything that takes time is imported; not where another program imports this package.
    from pipeline.cli import signals

    signals.arm()
