"""A split as a `datasets.Dataset`."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import datasets

    from pipeline.store.read import SplitView

__all__ = ["split_to_datasets"]


def split_to_datasets(view: "SplitView") -> "datasets.Dataset":
    """All datasets of a split as columns, in torch format; `last_hidden` is a column of [tokens, D] arrays."""
    import datasets
    import pyarrow as pa

    from pipeline.store.read import Ragged

    columns: dict[str, pa.Array] = {}
    for name in view.names:
        values = view[name]
        if isinstance(values, Ragged):
            data, offsets = values[:]
            rows = pa.FixedSizeListArray.from_arrays(pa.array(data.reshape(-1)), data.shape[1])
            columns[name] = pa.LargeListArray.from_arrays(pa.array(offsets), rows)
        elif isinstance(values, list):
            columns[name] = pa.array(values, pa.string())
        elif values.ndim == 2:
            columns[name] = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
        else:
            columns[name] = pa.array(values)
    return datasets.Dataset(pa.table(columns)).with_format("torch")
