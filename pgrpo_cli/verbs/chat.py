"""`pgrpo chat`: talk to the model of a run, as one of its preference groups."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pgrpo_cli.conversation.conversation import Conversation, persona_of
from pgrpo_cli.conversation.speaker import load_speaker
from pgrpo_cli.errors import RecipeError
from pgrpo_cli.eval.targets import eval_target
from pgrpo_cli.model.load.precision import device_for
from pgrpo_cli.pretrained.device import describe
from pgrpo_cli.rewards.build import build_rewards
from pgrpo_cli.rewards.trial import Trial, try_rewards
from pgrpo_cli.state.run import run_at
from pgrpo_cli.stats.result_types import Which

from .callbacks import Callbacks
from .source import StrPath


def chat(
    run: StrPath,
    *,
    group: str | None = None,
    user: str | None = None,
    profile: str | None = None,
    base: bool = False,
    step: int | None = None,
    seed: int = 0,
    max_tokens: int | None = None,
    temperature: float | None = None,
    device: str | None = None,
    callbacks: Callbacks | None = None,
) -> Conversation:
    """Load the model of a run, also of one that still trains, and begin a conversation with it.

    At most one of `group`, `user` and `profile` says who asks. `base`: the base model answers. `step`: the
    checkpoint after that step, None for the newest adapter. `max_tokens`: None for that of training;
    `temperature`: None for that of evaluations, at most 0.6. Raises PgrpoError.
    """
    if sum(value is not None for value in (group, user, profile)) > 1:
        raise RecipeError(
            "a preference group, a user and a profile all say who asks", remedy="Name one of them."
        )
    callbacks = callbacks or Callbacks()
    directory = run_at(Path(run))
    recipe = directory.recipe()
    target = eval_target(directory, recipe, directory.recipe_dir, step)
    for warning in target.warnings:
        callbacks.on_note(f"note: {warning}")
    persona = persona_of(directory.path, target.recipe, group=group, user=user, profile=profile)
    chosen = device_for(target.recipe, device)
    callbacks.on_note(describe(chosen))
    speaker = load_speaker(target, chosen)
    which: Which = "base" if base else "tuned"
    return Conversation(speaker, directory.path, persona, which, seed, max_tokens, temperature)


@dataclass
class AnswerRewards:
    """What the rewards of the run's recipe make of answers. They are built when they are first asked."""

    conversation: Conversation
    allow_code: bool = False
    allowed_hosts: Collection[str] = ()
    _built: Any = field(default=None, repr=False)

    def __call__(self) -> Trial:
        """The rewards of the last answer, part by part. Raises PgrpoError."""
        completion = self.conversation.last_completion()
        if self._built is None:
            run_dir = self.conversation.run_dir
            self._built = build_rewards(
                self.conversation.speaker.recipe.rewards,
                run_at(run_dir).recipe_dir,
                self.allow_code,
                run_dir=run_dir,
                allowed_hosts=self.allowed_hosts,
                device=self.conversation.speaker.policy.device,
            )
        (trial,) = try_rewards(self._built, [completion])
        return trial
