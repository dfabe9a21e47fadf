"""Stage one: encode the texts of tasks once, into an HDF5 cache."""

from pipeline.cli.embed import main

__all__ = ["main"]

if __name__ == "__main__":
    main(prog_name="embed.py")
