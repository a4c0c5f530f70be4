"""The policy: one base model, one adapter that can be switched off, and the tokenizer that goes with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from .rollout.workspace import Workspace
from .update.loss_scale import LossScale

HEAD_CHUNK = {"cpu": 128, "cuda": 512}
"""Tokens whose logits exist at the same time in an update. A GPU needs larger chunks to be fully used."""


@dataclass(frozen=True)
class Paths:
    """How a model computes on this machine. Measured when the model is loaded, and stored with the run, so
    that a resumed run computes in the same way.
    """

    shared_prefix: bool = True
    """Rollouts store the keys and values of a prompt once for all of its completions."""
    packed: bool = True
    """Training packs a prompt and all of its completions into one row."""
    left_padding: bool = True
    """Rollouts without a shared prefix decode prompts of unequal length together, padded on the left."""
    graphs: bool = True
    """Decode steps on a CUDA device are captured in graphs."""
    reason: str | None = None
    """Why one of the four is off."""
    copy_from_rows: int | None = 5
    """The smallest number of rows for which rollouts on a CUDA device are faster with dequantized copies of
    NF4 weights; None: never. The default holds on any device: up to four rows bitsandbytes multiplies by the
    packed weights without dequantizing them.
    """
    rollout_dtype: torch.dtype | None = None
    """The dtype of rollouts on a CPU; None: the compute dtype."""
    tokens_per_batch: int | None = None
    tokens_per_micro_batch: int | None = None
    """The budgets in use, with a number where the recipe says `auto`; None: not chosen yet."""

    def as_record(self) -> dict[str, Any]:
        """The fields in values of JSON."""
        dtype = self.rollout_dtype
        return {
            "shared_prefix": self.shared_prefix,
            "packed": self.packed,
            "left_padding": self.left_padding,
            "graphs": self.graphs,
            "reason": self.reason,
            "copy_from_rows": self.copy_from_rows,
            "tokens_per_batch": self.tokens_per_batch,
            "tokens_per_micro_batch": self.tokens_per_micro_batch,
            "rollout_dtype": None if dtype is None else dtype_name(dtype),
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any] | None) -> Paths | None:
        """The same from such values; None where there are none. A field that is missing has its default."""
        if record is None:
            return None
        name = record["rollout_dtype"]
        return cls(**{**record, "rollout_dtype": None if name is None else getattr(torch, name)})


def dtype_name(dtype: torch.dtype) -> str:
    """The name of a dtype in recipes and files, such as `bfloat16`."""
    return str(dtype).removeprefix("torch.")


@dataclass(frozen=True)
class Policy:
    """A PEFT model ready for rollouts and training."""

    model: Any
    tokenizer: Any
    device: torch.device
    paths: Paths = Paths()
    head_chunk: int = HEAD_CHUNK["cpu"]
    """Tokens whose logits exist at the same time: `HEAD_CHUNK` of the device. A memory plan runs on the meta
    device and sets the value of the device that it plans for.
    """
    logit_scale: float = 1.0
    """What the model multiplies the result of its output layer by, as Granite and Cohere do."""
    workspace: Workspace = field(default_factory=Workspace, compare=False, repr=False)
    loss_scale: LossScale = field(default_factory=LossScale, compare=False, repr=False)

    @contextmanager
    def base(self) -> Iterator[None]:
        """Within the block the adapter is off: the model is the base model, the reference of the KL term."""
        with self.model.disable_adapter():
            yield

    def train(self) -> None:
        """Training mode for gradient checkpointing and the adapter's dropout. All else stays in eval mode, in
        which rollouts compute: in training mode PhiMoE draws experts at random, and Gemma 3n leaves out
        adapters.
        """
        from peft.tuners.lora import LoraLayer
        from transformers.modeling_layers import GradientCheckpointingLayer

        self.model.eval()
        for module in self.model.modules():
            if isinstance(module, GradientCheckpointingLayer):
                module.training = True
            elif isinstance(module, LoraLayer):
                module.lora_dropout.train()

    @property
    def trainable(self) -> dict[str, torch.nn.Parameter]:
        """The adapter's parameters by name, in a fixed order."""
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    @property
    def dtype(self) -> torch.dtype:
        """The compute dtype."""
        return self.model.get_base_model().dtype  # type: ignore[no-any-return]

    @property
    def config(self) -> Any:
        """The language model's configuration (that of the text part, for models with several)."""
        return self.model.config.get_text_config()

    @property
    def decoder(self) -> Any:
        """The transformer without its output layer; the adapter's layers sit inside it."""
        return self.model.get_base_model().get_decoder()

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """The output layer: hidden states [..., D] to logits [..., V], soft-capped or scaled if the model's
        are.
        """
        logits = self.model.get_base_model().get_output_embeddings()(hidden)
        cap = self.logit_cap
        if cap is not None:
            logits = cap * torch.tanh(logits / cap)
        return logits if self.logit_scale == 1.0 else logits * self.logit_scale

    @property
    def logit_cap(self) -> float | None:
        """The soft cap of the logits, in Gemma's name for it or in RecurrentGemma's."""
        cap: float | None = getattr(self.config, "final_logit_softcapping", None)
        return getattr(self.config, "logits_soft_cap", None) if cap is None else cap

    @property
    def stop_token_ids(self) -> tuple[int, ...]:
        """Tokens that end a completion: those of the generation config and the tokenizer's own."""
        ids = self.model.generation_config.eos_token_id
        configured = [] if ids is None else [ids] if isinstance(ids, int) else list(ids)
        return tuple(sorted({*configured, self.tokenizer.eos_token_id} - {None}))
