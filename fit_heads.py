"""Stage two: fit many lightweight heads on cached embeddings."""

from pipeline.cli.fit_heads import main

__all__ = ["main"]

if __name__ == "__main__":
    main(prog_name="fit_heads.py")
