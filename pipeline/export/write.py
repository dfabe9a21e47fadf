"""The verb `export`: a trained head as a folder that others can use."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import ConfigError, ResultsError, UnknownNameError
from pipeline.export.card import card
from pipeline.export.onnx_file import write_onnx
from pipeline.export.packages import PACKAGES, to_package
from pipeline.export.torch_file import network_document, state_of, torch_source
from pipeline.heads.config import TRAINED_POOLS
from pipeline.models.document import read_document
from pipeline.models.saved import SavedHead, finetuned_encoder, head_document, load_head
from pipeline.publish import publish
from pipeline.text import json_text

__all__ = ["FORMATS", "Exported", "export"]


@dataclass(frozen=True)
class Exported:
    """What an export wrote (document of `fit_heads.py export --json`); `parameters` are the trained ones."""

    id: str
    head: str
    format: str
    folder: str
    files: tuple[str, ...]
    parameters: int


def _torch(head: SavedHead, folder: Path) -> None:
    from safetensors.torch import save_file

    (folder / "head.py").write_text(torch_source(head), encoding="utf-8")
    save_file(state_of(head), folder / "head.safetensors")


def _safetensors(head: SavedHead, folder: Path) -> None:
    import torch
    from safetensors.torch import save_file

    if head.config.head not in PACKAGES:
        save_file(state_of(head), folder / "model.safetensors")
        return
    save_file(to_package(head.config.head, head.network, head.tensors), folder / "model.safetensors")
    if head.config.scale != "none":
        scaling = {"shift": head.scaling.shift, "factor": head.scaling.factor}
        save_file({name: torch.from_numpy(v) for name, v in scaling.items()}, folder / "scaling.safetensors")


#: By format: what writes a head's weights into a folder.
FORMATS: dict[str, Callable[[SavedHead, Path], None]] = {
    "torch": _torch,
    "safetensors": _safetensors,
    "onnx": write_onnx,
}

#: Every file and folder that an export may have; `force` replaces these and no others.
FILES = (
    "README.md", "config.json", "head.py", "head.safetensors", "model.safetensors", "scaling.safetensors", "head.onnx",
    "encoder",
)  # fmt: skip


def export(
    head: str | Path,
    *,
    format: str = "torch",  # noqa: A002 - the option's name
    out: str | Path | None = None,
    results: str | Path = "runs/results.sqlite",
    force: bool = False,
) -> Exported:
    """Write a head, an id of the results or a head's folder, in a format of `FORMATS`, with a model card.

    `out` is the folder, `exports/<id>-<format>` beside the results by default; one that is there is replaced only with
    `force`, only if it is an export, and of it only files that exports have. Raises a `KanglueError`.
    """
    if format not in FORMATS:
        raise UnknownNameError("format", format, tuple(FORMATS))
    loaded = load_head(head, results=results).usable()
    place = Path(out) if out is not None else Path(results).parent / "exports" / f"{loaded.id}-{format}"
    if loaded.config.token_pool in TRAINED_POOLS:
        raise ConfigError(
            f"head {loaded.id}: expected a head on one vector a row, found one with its own {loaded.config.token_pool} "
            "over tokens, which has no export; `token_pool='mean'` and max have"
        )
    _check_place(place, force)
    package = PACKAGES[loaded.config.head].name if format == "safetensors" and loaded.config.head in PACKAGES else None
    with publish(place, "an export", own=FILES) as work:
        FORMATS[format](loaded, work)
        document = head_document(loaded) | {"format": format}
        document |= {"network": network_document(loaded)} if format == "torch" else {}
        (work / "config.json").write_text(json_text(document, indent=2), encoding="utf-8")
        text = card(loaded, format, package=package, results=Path(results))
        (work / "README.md").write_text(text, encoding="utf-8")
        if encoder := finetuned_encoder(loaded, results):
            shutil.copytree(encoder, work / "encoder")
        files = tuple(sorted(file.name + "/" * file.is_dir() for file in work.iterdir()))
    return Exported(loaded.id, loaded.config.head, format, str(place), files, loaded.parameters)


def _check_place(place: Path, force: bool) -> None:
    if not place.exists():
        return
    if not place.is_dir():
        raise ConfigError(f"`out` {place}: expected a new folder, found a file there; name another")
    if not any(place.iterdir()):
        return
    try:
        ours = read_document(place).format is not None
    except ResultsError:
        ours = False
    if not ours:
        raise ConfigError(f"`out` {place}: expected a new folder, found other things there; name another")
    if not force:
        raise ConfigError(f"`out` {place}: expected a new folder, found an export there; `force=True` replaces it")
