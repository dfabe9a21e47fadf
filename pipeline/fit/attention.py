"""Attention over a row's tokens: a trained score for each, and their sum weighted by the scores' softmax.

s_t = phi(x_t) w, a = softmax(s) over the row's own tokens, p = sum_t a_t x_t (Lin et al., arXiv 1703.03130, with one
hop and no hidden layer). phi is the expansion of the network's `pool`: the token itself, or its B-splines and silu, so
that every coordinate has a learned function as on a KAN's edge. A bias would move all scores alike and is left out.

A pack's tokens are many more numbers than its features, so they stay in float16 and are widened a piece at a time; the
backward pass widens them again instead of holding them.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from pipeline.fit.tokens import Tokens
from pipeline.heads.forward import expand
from pipeline.heads.network import LayerSpec

__all__ = ["TokenBatch", "TokenSource"]

#: Numbers that a piece of the work may hold: its tokens and their expansions.
PIECE_NUMBERS = {"cpu": 1 << 24, "cuda": 1 << 27}


class TokenSource:
    """The tokens of a split on a device, for networks with a pool: what `FirstLayer` is for the others."""

    def __init__(
        self, pool: LayerSpec, tokens: Tokens, device: torch.device, kind: torch.dtype = torch.float32
    ) -> None:
        """`kind` is the type that tokens are widened to."""
        self.pool, self.kind, self._scale = pool, kind, tokens.scaling
        # One token of zeros behind the last stands for padding.
        values = np.concatenate([tokens.values, np.zeros((1, tokens.values.shape[1]), tokens.values.dtype)])
        self.features = torch.from_numpy(values).to(device)
        offsets = torch.from_numpy(np.ascontiguousarray(tokens.offsets, np.int64)).to(device)
        self.first, self.lengths = offsets[:-1], offsets.diff()
        if self._scale is not None:
            self._shift, self._factor = (
                torch.from_numpy(one).to(device, kind) for one in (self._scale.shift, self._scale.factor)
            )

    def __len__(self) -> int:
        return len(self.first)

    def take(self, rows: Tensor) -> "TokenBatch":
        """The tokens of rows [heads, rows], or of rows [rows] for all heads."""
        return TokenBatch(self, rows)

    def padded(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Scaled tokens [heads, rows, longest, inputs] of rows [heads, rows], and which of them are real."""
        lengths = self.lengths[rows].unsqueeze(-1)
        place = torch.arange(int(lengths.max()), device=rows.device)
        real = place < lengths
        at = (self.first[rows].unsqueeze(-1) + place).masked_fill(~real, len(self.features) - 1)
        x = self.features[at].to(self.kind)
        if self._scale is not None and self._scale.kind != "none":
            x.sub_(self._shift).mul_(self._factor)
            if self._scale.kind == "tanh":
                x.tanh_()
        return x, real


class TokenBatch:
    """Some rows' tokens in use: each head's own rows [heads, rows], or the same rows [rows] for all of them."""

    def __init__(self, source: TokenSource, rows: Tensor) -> None:
        self.source, self.shared = source, rows.dim() == 1
        self.rows = rows.unsqueeze(0) if self.shared else rows

    def _pieces(self) -> Iterator[tuple[slice, slice]]:
        """Heads (all of them, where they share rows) and rows that are worked on together."""
        heads, rows = self.rows.shape
        longest, pool = int(self.source.lengths[self.rows].max()), self.source.pool
        each = longest * (pool.inputs + pool.features)
        numbers = PIECE_NUMBERS[self.rows.device.type]
        some = max(1, min(rows, numbers // each))
        together = max(1, numbers // (each * some))
        for row in range(0, rows, some):
            for head in range(0, heads, together):
                yield slice(None) if self.shared else slice(head, head + together), slice(row, row + some)

    def _attend(self, weight: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens, their expansions [heads or 1, rows * longest, features], and shares [heads, rows, longest]."""
        x, real = self.source.padded(rows)
        phi = expand(self.source.pool, x.flatten(1, 2))
        if self.shared:
            scores = torch.einsum("nf,hf->hn", phi[0], weight.squeeze(2))
        else:
            scores = torch.bmm(phi, weight).squeeze(2)
        scores = scores.unflatten(1, real.shape[1:]).masked_fill(~real, -torch.inf)
        return x, phi, scores.softmax(2)

    def pooled(self, weight: Tensor) -> Tensor:
        """The heads' pooled rows [heads, rows, inputs], given their pools' weights [heads, features, 1]."""
        found = weight.new_empty(len(weight), self.rows.shape[1], self.source.pool.inputs)
        for heads, rows in self._pieces():
            x, _, shares = self._attend(weight[heads], self.rows[heads, rows])
            if self.shared:
                found[:, rows] = torch.einsum("hrl,rld->hrd", shares, x[0])
            else:
                found[heads, rows] = torch.einsum("hrl,hrld->hrd", shares, x)
        return found

    def gradient(self, weight: Tensor, delta: Tensor) -> Tensor:
        """The gradient [heads, features, 1] by the weights, of that by the pooled rows [heads, rows, inputs].

        With g_t = x_t . delta, the softmax gives a_t (g_t - sum a g) by the scores. Each head has its own rows.
        """
        found = torch.zeros_like(weight)
        for heads, rows in self._pieces():
            x, phi, shares = self._attend(weight[heads], self.rows[heads, rows])
            along = torch.einsum("hrld,hrd->hrl", x, delta[heads, rows])
            scores = shares * (along - (shares * along).sum(2, keepdim=True))
            found[heads] += torch.bmm(phi.transpose(1, 2), scores.flatten(1).unsqueeze(2))
        return found
