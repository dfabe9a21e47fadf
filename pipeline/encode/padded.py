"""The path for any `AutoModel`: rows of similar length padded to the longest, real tokens cut out again."""

import inspect
from typing import Any

import torch
from torch import Tensor

from pipeline.encode.hidden import Hidden, bounds_of
from pipeline.errors import EncoderError

__all__ = ["PaddedEncoder", "has_decoder", "takes_types"]


def has_decoder(model: Any) -> bool:
    """Whether a model is an encoder and a decoder, whatever its configuration says of the checkpoint (as T5's may)."""
    return hasattr(model, "encoder") and hasattr(model, "decoder") and model.get_encoder() is not model


def takes_types(model: Any) -> bool:
    """Whether a model's forward pass takes token types."""
    return "token_type_ids" in inspect.signature(model.forward).parameters


class PaddedEncoder:
    """A transformers model on batches of flat tokens; its outputs are those of one row at a time."""

    path = "padded"

    def __init__(self, model: Any, layers: tuple[int, ...] | None, *, types: bool) -> None:
        """`layers` are counted from 1, their mean stands for the last; `types`: the tokenizer gives token types."""
        self._model, self._layers = model, layers
        self._encoder = model.get_encoder() if has_decoder(model) else model
        self._pad = model.config.pad_token_id or 0
        self._takes_types = types and takes_types(self._encoder)

    def __call__(self, ids: Tensor, types: Tensor, lengths: list[int]) -> Hidden:
        """`ids` and `types` are whole numbers [T] on the model's device, `lengths` the tokens of each row."""
        size = torch.tensor(lengths, device=ids.device)
        mask = torch.arange(max(lengths), device=ids.device) < size[:, None]
        ids, types = ids.long(), types.long()
        inputs = {"input_ids": ids.new_full(mask.shape, self._pad), "attention_mask": mask.long()}
        inputs["input_ids"][mask] = ids
        if self._takes_types:
            inputs["token_type_ids"] = types.new_zeros(mask.shape)
            inputs["token_type_ids"][mask] = types
        output = self._encoder(**inputs, output_hidden_states=self._layers is not None, return_dict=True)
        if self._layers is None:
            last = output.last_hidden_state
        else:
            last = sum(output.hidden_states[layer].float() for layer in self._layers) / len(self._layers)

        def pooler() -> Tensor:
            pooled = getattr(output, "pooler_output", None)
            if pooled is None:
                raise EncoderError("expected a pooler output, found that this encoder gives none; store cls or mean")
            return pooled

        bounds = bounds_of(lengths, ids.device)
        return Hidden(last[mask], ids, lengths, self._model.get_input_embeddings(), pooler, bounds)
