"""The policy: one base model, one adapter that can be switched off, and the tokenizer that belongs to
them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pgrpo_cli.errors import CheckpointError, ModelError
from pgrpo_cli.recipe.model import AdapterSection
from pgrpo_cli.recipe.schema import Recipe
from pgrpo_cli.seeding import derive_seed

from .nf4 import keep_differentiable
from .sources import load_base_model, load_tokenizer


@dataclass(frozen=True)
class Policy:
    """A PEFT model ready for rollouts and training."""

    model: Any
    tokenizer: Any
    device: torch.device

    @contextmanager
    def base(self) -> Iterator[None]:
        """Within the block the adapter is off: the model is the base model, the reference of the KL term."""
        with self.model.disable_adapter():
            yield

    @property
    def trainable(self) -> dict[str, torch.nn.Parameter]:
        """The adapter's parameters by name, in a fixed order."""
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    @property
    def config(self) -> Any:
        """The language model's configuration (that of the text part, for models with several)."""
        return self.model.config.get_text_config()

    @property
    def decoder(self) -> Any:
        """The transformer without its output layer; the adapter's layers sit inside it."""
        return self.model.get_base_model().get_decoder()

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """The output layer: hidden states [..., D] to logits [..., V], soft-capped where the model does
        so.
        """
        logits = self.model.get_base_model().get_output_embeddings()(hidden)
        cap = getattr(self.config, "final_logit_softcapping", None)
        return logits if cap is None else cap * torch.tanh(logits / cap)

    @property
    def context_length(self) -> int:
        """Longest sequence, in tokens, that the model was made for."""
        return int(self.config.max_position_embeddings)

    @property
    def stop_token_ids(self) -> tuple[int, ...]:
        """Tokens that end a completion: those of the generation config and the tokenizer's own."""
        ids = self.model.generation_config.eos_token_id
        configured = [] if ids is None else [ids] if isinstance(ids, int) else list(ids)
        return tuple(sorted({*configured, self.tokenizer.eos_token_id} - {None}))


def pick_device() -> torch.device:
    """CUDA where there is one, else the CPU."""
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def load_policy(
    recipe: Recipe,
    *,
    recipe_dir: Path,
    device: torch.device | None = None,
    adapter: Path | None = None,
    tokenizer: Any = None,
) -> Policy:
    """Load the base model and put a LoRA adapter on it: a fresh one, or the one saved in the folder
    `adapter`.

    `tokenizer`: that of the model, where the caller has loaded it already. A fresh adapter is a function of
    the recipe's seed. Raises ModelError or CheckpointError.
    """
    from peft import PeftModel, get_peft_model

    device = device or pick_device()
    tokenizer = tokenizer or load_tokenizer(recipe.model, recipe_dir)
    base = load_base_model(recipe.model, recipe_dir, device)
    keep_differentiable(base)
    base.requires_grad_(False)
    base.config.use_cache = True
    if adapter is not None:
        try:
            model = PeftModel.from_pretrained(base, str(adapter), is_trainable=True)
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise CheckpointError(
                f"the adapter in {adapter} does not load: {str(error).splitlines()[0]}",
                remedy="It was saved from another base model, or the files are damaged.",
            ) from error
    else:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(derive_seed(recipe.seed, "adapter"))
            try:
                model = get_peft_model(base, lora_config(recipe.adapter))
            except ValueError as error:
                raise ModelError(
                    f"adapter.target_modules: {str(error).splitlines()[0]}",
                    remedy="Name modules that the model has, or write all-linear.",
                ) from error
    return Policy(model, tokenizer, device)


def lora_config(section: AdapterSection) -> Any:
    """The PEFT configuration of the recipe's adapter."""
    from peft import LoraConfig

    targets = section.target_modules
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=section.r,
        lora_alpha=section.alpha,  # type: ignore[arg-type]
        lora_dropout=section.dropout,
        use_rslora=section.use_rslora,
        target_modules=targets if isinstance(targets, str) else list(targets),
    )
