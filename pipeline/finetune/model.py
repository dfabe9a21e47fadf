"""An encoder, the pooling of its last hidden state, and a head, as one PyTorch module."""

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.errors import ConfigError
from pipeline.fit.data import Scaling
from pipeline.fit.step import row_losses
from pipeline.heads.forward import network_forward
from pipeline.heads.network import NetworkSpec

__all__ = ["LORA_TARGETS", "EncoderWithHead", "Head", "merge_lora", "wrap_lora"]

#: Attention projections of model types for which peft has no default.
LORA_TARGETS = {
    "mpnet": ["q", "v"],
    "distilbert": ["q_lin", "v_lin"],
    "albert": ["query", "value"],
    "modernbert": ["Wqkv"],
}


class Head(nn.Module):
    """A head of stage two as a module: a pack of one, its tensors as parameters.

    The same `network_forward` computes it here and in a pack of a thousand.
    """

    def __init__(self, network: NetworkSpec, tensors: Mapping[str, Tensor], scaling: Scaling) -> None:
        """`tensors` are one head's initial weights, by name; `scaling` is kept fixed."""
        super().__init__()
        self.network = network
        trained = network.shapes()
        # A parameter's name must not hold a dot.
        for name, tensor in tensors.items():
            if name in trained:
                self.register_parameter(name.replace(".", "/"), nn.Parameter(tensor.detach().clone().float()))
            else:
                self.register_buffer(name.replace(".", "/"), tensor.detach().clone())
        self.scaled = scaling.kind != "none"
        self.tanh = scaling.kind == "tanh"
        self.shift: Tensor
        self.factor: Tensor
        self.register_buffer("shift", torch.from_numpy(scaling.shift.copy()))
        self.register_buffer("factor", torch.from_numpy(scaling.factor.copy()))

    def tensors(self) -> dict[str, Tensor]:
        """The head's tensors under the names that stage two gives them; parameters are shared, not copied."""
        held = dict(self.named_parameters()) | dict(self.named_buffers())
        return {name.replace("/", "."): tensor for name, tensor in held.items() if name not in ("shift", "factor")}

    def forward(self, x: Tensor) -> Tensor:
        """Logits [rows, outputs] of pooled vectors x [rows, inputs], in float32 whatever the encoder's precision."""
        with torch.autocast(x.device.type, enabled=False):
            x = x.float()
            if self.scaled:
                x = (x - self.shift) * self.factor
            if self.tanh:
                x = torch.tanh(x)
            stacked = {name: tensor.unsqueeze(0) for name, tensor in self.tensors().items()}
            return network_forward(self.network, x.unsqueeze(0), stacked)[0]


class EncoderWithHead(nn.Module):
    """Token ids to logits; with labels, the mean loss of the minibatch too."""

    #: Otherwise Trainer takes the loss for a sum over the accumulated minibatches, and gradients come out as many
    #: times too large as there are minibatches in a step.
    accepts_loss_kwargs = False

    encoder: Any  # transformers' model, or peft's around it

    def __init__(self, encoder: nn.Module, pooling: str, head: Head, dropout: float) -> None:
        """`pooling` is `pooled` (the pooler's output), `cls` or `mean` over real tokens."""
        super().__init__()
        self.encoder, self.head, self.pooling = encoder, head, pooling
        self.dropout = nn.Dropout(dropout)

    def pool(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Pooled vectors [rows, width] of a padded batch (`input_ids`, `attention_mask`, perhaps `token_type_ids`)."""
        output = self.encoder(**inputs, return_dict=True)
        if self.pooling == "pooled":
            return output.pooler_output
        if self.pooling == "cls":
            return output.last_hidden_state[:, 0]
        mask = inputs["attention_mask"].unsqueeze(2)
        hidden = output.last_hidden_state.float() * mask
        return hidden.sum(1) / mask.sum(1)

    def forward(self, *, labels: Tensor | None = None, **inputs: Tensor) -> dict[str, Tensor]:
        """`logits` [rows, outputs] and, with `labels` [rows] (classes or standardised values), the mean `loss`."""
        logits = self.head(self.dropout(self.pool(inputs)))
        if labels is None:
            return {"logits": logits}
        losses = row_losses(logits.unsqueeze(0), labels.unsqueeze(0))
        return {"loss": losses.mean(), "logits": logits}


def wrap_lora(encoder: Any, rank: int) -> nn.Module:
    """The encoder with LoRA updates of a rank; its own weights are frozen.

    Only the encoder is wrapped and no task type is given: peft would freeze a module called `head`, and not save it.
    Raises `ConfigError` where peft has no targets for the model type.
    """
    from peft import LoraConfig, get_peft_model

    kind = encoder.config.model_type
    config = LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules=LORA_TARGETS.get(kind))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by a name that is going
            return get_peft_model(encoder, config)
    except ValueError as error:
        raise ConfigError(
            f"lora: expected a model type with known attention projections, found {kind} ({error})"
        ) from error


def merge_lora(encoder: Any) -> nn.Module:
    """The encoder with its LoRA updates added to its weights, in transformers' own class."""
    return encoder.merge_and_unload()
