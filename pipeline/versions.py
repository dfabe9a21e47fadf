"""Versions of packages, for records of how something was made."""

from importlib import metadata

__all__ = ["version"]


def version(package: str) -> str:
    """The installed version of a package, or `not installed`: kanglue itself also runs from its folder."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
