"""Rows that must not be parted: those that share a text, a sentence of a pair, or a phrase that contains both."""

from collections.abc import Sequence

import numpy as np

__all__ = ["SHARED", "row_groups"]

#: The group of a phrase that several groups contain: it belongs to the training rows, whatever is held out.
SHARED = -1
#: A text in more rows than this, and in more than a hundredth of them, is boilerplate and ties no rows together.
_FREQUENT = 20


def row_groups(
    texts: Sequence[str], text_pairs: Sequence[str] | None = None, *, phrases: bool = False
) -> np.ndarray:  # fmt: skip
    """The group of every row, int64 [rows]: rows with one number have to be held out together.

    Rows are tied by a text that they share, on either side of a pair; case and white space do not count. With
    `phrases` the texts are phrases of longer ones among them (as SST-2's training rows are): a row belongs to the one
    text that contains it and that no other text contains, and is `SHARED` where there are several of these.
    """
    texts = [" ".join(text.casefold().split()) for text in texts]
    if phrases:
        return _phrase_groups(texts)
    seconds = [] if text_pairs is None else [" ".join(text.casefold().split()) for text in text_pairs]
    numbers: dict[str, int] = {}
    ids = np.fromiter((numbers.setdefault(text, len(numbers)) for text in (*texts, *seconds)), np.int64)
    if not seconds:
        return ids
    first, second = ids.reshape(2, -1)
    counts = np.bincount(ids)
    ties = (counts <= max(_FREQUENT, len(texts) // 100)) & (np.arange(len(counts)) != numbers.get("", -1))
    # Rows are nodes behind those of the texts; rows of the same two frequent texts are still one group.
    same = np.unique(np.stack([first, second], 1), axis=0, return_inverse=True)[1].ravel()
    rows = len(counts) + np.arange(len(texts))
    edges = [(rows, rows[_first_of(same)]), *((rows[ties[side]], side[ties[side]]) for side in (first, second))]
    start, end = (np.concatenate(part) for part in zip(*edges, strict=True))
    return np.unique(_components(start, end, len(counts) + len(texts))[rows], return_inverse=True)[1]


def _first_of(ids: np.ndarray) -> np.ndarray:
    """For each entry of `ids`, the position of the first one equal to it."""
    _, first, inverse = np.unique(ids, return_index=True, return_inverse=True)
    return first[inverse]


def _components(start: np.ndarray, end: np.ndarray, nodes: int) -> np.ndarray:
    """The smallest node that each node is connected to, int64 [nodes], by the edges `start[i]` to `end[i]`."""
    label = np.arange(nodes)
    while True:
        before, low = label.copy(), np.minimum(label[start], label[end])
        np.minimum.at(label, start, low)
        np.minimum.at(label, end, low)
        label = label[label]
        if np.array_equal(label, before):
            return label


def _phrase_groups(texts: Sequence[str]) -> np.ndarray:
    """`row_groups` of phrases, by hashes of all runs of words that are as long as some row."""
    words: dict[str, int] = {}
    rows = [[words.setdefault(word, len(words)) for word in text.split()] for text in texts]
    lengths = np.array([len(row) for row in rows])
    starts, row_of = np.cumsum(lengths) - lengths, np.repeat(np.arange(len(rows)), lengths)
    codes = np.random.default_rng(0).integers(1 << 63, size=len(words), dtype=np.uint64)
    codes = codes[np.fromiter((word for row in rows for word in row), np.int64, lengths.sum())]
    ends = np.repeat(starts + lengths, lengths)
    at, hashes = np.arange(len(codes)), codes
    text_of, found, texts_so_far = np.zeros(len(rows), np.int64), [], int((lengths == 0).any())
    for size in range(1, int(lengths.max(initial=0)) + 1):
        if size > 1:
            fits = at + size <= ends[at]
            at = at[fits]
            # A polynomial in an odd number, modulo 2^64: two of some million runs hardly ever have one hash.
            hashes = hashes[fits] * np.uint64(0x9E3779B97F4A7C15) + codes[at + size - 1]
        of_size = np.flatnonzero(lengths == size)
        if not len(of_size):
            continue
        known, text_of[of_size] = np.unique(hashes[np.searchsorted(at, starts[of_size])], return_inverse=True)
        position = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
        hit = known[position] == hashes
        found.append(np.stack([position[hit] + texts_so_far, row_of[at[hit]]], 1))
        text_of[of_size] += texts_so_far
        texts_so_far += len(known)
    contained, by = np.concatenate([*found, np.empty((0, 2), np.int64)]).T
    pairs = np.unique(np.stack([contained, text_of[by]], 1), axis=0)
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    whole = np.ones(texts_so_far, bool)
    whole[pairs[:, 0]] = False
    pairs = pairs[whole[pairs[:, 1]]]
    group = np.arange(texts_so_far)
    group[pairs[:, 0]] = pairs[:, 1]
    group[np.bincount(pairs[:, 0], minlength=texts_so_far) > 1] = SHARED
    return group[text_of]
