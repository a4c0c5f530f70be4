"""What the checks of one process have in common: the device, the shape, and one policy of it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from pgrpo_cli.data.records import PreparedPrompt
from pgrpo_cli.errors import ModelError
from pgrpo_cli.model.load.from_recipe import adapted
from pgrpo_cli.model.load.precision import compute_dtype
from pgrpo_cli.model.policy import Policy
from pgrpo_cli.model.rollout.workspace import Workspace
from pgrpo_cli.pretrained.device import choose_device
from pgrpo_cli.pretrained.memory import release_memory
from pgrpo_cli.recipe.schema import Recipe

from .catalogue import Skipped
from .shapes import SHAPES, PlainTokenizer, Shape, build_base, usual_shape

GENERATIONS = 8
_MODEL = "model"


class Subject:
    """`wish`, `shape_name`: as asked for on the command line. `folder`: for what checks write. `failed`:
    checks that failed in a process before this one, with the reasons.
    """

    def __init__(
        self, wish: str, shape_name: str | None, folder: Path, *, failed: Mapping[str, str] | None = None
    ) -> None:
        self.wish, self.folder = wish, folder
        self._shape_name, self._failed = shape_name, dict(failed or {})
        self.build_seconds = self.probe_seconds = 0.0

    @cached_property
    def device(self) -> torch.device:
        """Raises Skipped where there is none; that is for the check `device` to say."""
        try:
            return choose_device(self.wish)
        except ModelError as error:
            raise Skipped("there is no device that can be used") from error

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    def need_gpu(self) -> None:
        """Raises Skipped on a CPU."""
        if not self.on_gpu:
            raise Skipped("needs a GPU")

    @cached_property
    def shape(self) -> Shape:
        return SHAPES[self._shape_name] if self._shape_name else usual_shape(self.device)

    @property
    def dtype(self) -> torch.dtype:
        """In which models compute."""
        return compute_dtype(self.recipe().model, self.device)

    def recipe(self, **sections: Mapping[str, Any]) -> Recipe:
        """A QLoRA recipe of the shape; `sections` change keys of its sections."""
        shape = self.shape
        usual: dict[str, dict[str, Any]] = {
            "model": {"id": f"./{_MODEL}"},
            "adapter": {"r": shape.rank},
            "data": {"source": {"type": "personas"}, "max_prompt_tokens": shape.prompt_tokens},
            "rollout": {
                "num_generations": GENERATIONS,
                "max_completion_tokens": shape.completion_tokens,
                "tokens_per_batch": 16_384,
            },
            "train": {
                "steps": 3,
                "prompts_per_step": 8,
                "optimizer": {"type": "adamw_8bit"},
                "tokens_per_micro_batch": 2048,
                "gradient_checkpointing": shape.checkpointing,
                "save_every": 1,
            },
        }
        merged = {name: {**usual.get(name, {}), **sections.get(name, {})} for name in {*usual, *sections}}
        # The plain tokenizer writes three characters for a token on average.
        length = {"type": "length", "unit": "characters", "max": 0, "slack": 6 * shape.completion_tokens}
        return Recipe.model_validate({"name": "selfcheck", "rewards": [length], **merged})

    def write_model(self) -> None:
        """Put the model's configuration into the folder that the recipe names, which is all that a plan
        reads of it.
        """
        self.shape.config().save_pretrained(self.folder / _MODEL)

    @cached_property
    def _built(self) -> Policy:
        recipe, started = self.recipe(), time.perf_counter()
        base = build_base(self.shape, recipe.model, self.device)
        self.build_seconds, started = self.seconds() - started, self.seconds()
        policy = adapted(base, PlainTokenizer(self.shape.vocabulary), recipe, self.device)
        self.probe_seconds = self.seconds() - started
        return policy

    @property
    def policy(self) -> Policy:
        """The policy under an adapter that is always the same and not zero, with a workspace of its own: what
        went wrong in that of another check is forgotten.

        Raises Skipped where it could not be built before.
        """
        if self.device and "model" in self._failed:
            raise Skipped("the model could not be built")
        try:
            policy = self._built
        except Exception:
            self._failed["model"] = ""
            raise
        randomize_adapter(policy)
        return replace(policy, workspace=Workspace())

    def prompts(
        self, count: int, tokens: int | None = None, *, vocabulary: int | None = None
    ) -> list[PreparedPrompt]:
        """Prompts of random tokens, in two preference groups."""
        generator = torch.Generator().manual_seed(count)
        shape = (count, tokens or self.shape.prompt_tokens)
        drawn = torch.randint(vocabulary or self.shape.vocabulary, shape, generator=generator).tolist()
        return [PreparedPrompt(f"prompt-{i}", "ab"[i % 2], "", tuple(ids)) for i, ids in enumerate(drawn)]

    def seconds(self) -> float:
        """The time at which all work given to the device is done."""
        if self.on_gpu:
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def finish(self) -> None:
        """Wait for all work given to the device, if any was."""
        if "device" in self.__dict__:
            self.seconds()

    def recover(self) -> bool:
        """Free the memory of the check before. Whether the device can still be used in this process: after
        an illegal memory access, for instance, every call fails.
        """
        try:
            release_memory()
            if "device" in self.__dict__ and self.on_gpu:
                torch.cuda.set_per_process_memory_fraction(1.0, self.device)
                torch.ones(1, device=self.device).add_(1).item()
        except Exception:
            return False
        return True


def randomize_adapter(policy: Policy, scale: float = 0.3) -> None:
    """LoRA starts as zero, which would hide an adapter that is left out."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in policy.trainable.values():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(scale * noise / parameter.shape[-1] ** 0.5)


def plainly(policy: Policy) -> Policy:
    """The same policy without graphs."""
    return replace(policy, paths=replace(policy.paths, graphs=False))
