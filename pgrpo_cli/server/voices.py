"""The names that a client chooses from as `model`: who answers, and whom the model is told about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import takewhile
from pathlib import Path

from pgrpo_cli.data.conditioning.presets import Preset, group_preset, plain_preset, preference_groups_of
from pgrpo_cli.data.records import Message
from pgrpo_cli.errors import DataError
from pgrpo_cli.names import nearest
from pgrpo_cli.recipe.schema import Recipe
from pgrpo_cli.stats.result_types import Which

from .errors import ApiError

BASE = "base"
_PRESETS_KEPT = 256


@dataclass(frozen=True)
class Voice:
    """The base model or the tuned one, told that somebody of a preference group asks, or told of nobody."""

    model: str
    which: Which
    preference_group: str | None = None


class Voices:
    """`base`, the run by its name, and `<run>@<preference group>` for each of its groups.

    `base@<preference group>` is taken, too, and not listed: the base model told the same. A run that is
    itself called `base` is `tuned` here.
    """

    def __init__(self, run_dir: Path, recipe: Recipe, name: str) -> None:
        run = "tuned" if name == BASE else name
        try:
            groups = preference_groups_of(run_dir)
        except DataError:
            # A run without its data, an adapter that was handed on, has no groups to speak as.
            groups = []
        listed = [Voice(BASE, "base"), Voice(run, "tuned")]
        listed += [Voice(f"{run}@{group}", "tuned", group) for group in groups]
        self.listed: Sequence[Voice] = listed
        self._by_model = {f"{BASE}@{group}": Voice(f"{BASE}@{group}", "base", group) for group in groups}
        self._by_model |= {voice.model: voice for voice in listed}

        @lru_cache(_PRESETS_KEPT)
        def preset_of(group: str | None) -> Preset:
            return plain_preset(recipe.model) if group is None else group_preset(run_dir, recipe, group)

        self._preset_of = preset_of

    def find(self, model: str) -> Voice:
        """Raises ApiError for a name that there is none of."""
        if model in self._by_model:
            return self._by_model[model]
        near = nearest(model, self._by_model)
        hint = f"did you mean {near!r}?" if near else "GET /v1/models lists the models"
        raise ApiError(404, f"there is no model {model!r}; {hint}", param="model", code="model_not_found")

    def preset(self, voice: Voice) -> Preset:
        """What stands before a conversation. Reads the run's data at the first call for a group."""
        return self._preset_of(voice.preference_group)

    def messages(self, voice: Voice, asked: Sequence[Message], *, recorded: bool = False) -> list[Message]:
        """What the model sees of a client's conversation; `recorded`: what a rating has of it.

        A group's preset comes first, and a system message of the client continues after the preset's. Where
        nobody in particular asks, a system message of the client takes the place of the recipe's. Several at
        the beginning are one, since many templates have no place for more, and a blank one is none.
        """
        preset = self.preset(voice)
        before = list(preset.recorded if recorded else preset.messages)
        told = list(takewhile(lambda message: message["role"] == "system", asked))
        rest = asked[len(told) :]
        texts = [message["content"] for message in told if message["content"].strip()]
        if not texts:
            return [*before, *rest]
        if before and before[0]["role"] == "system":
            first = before.pop(0)
            if voice.preference_group is not None:
                texts.insert(0, first["content"])
        return [{"role": "system", "content": "\n\n".join(texts)}, *before, *rest]
