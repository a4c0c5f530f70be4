"""What stands before the question of whoever talks to the model: what stands before trained prompts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pgrpo_cli.data.manifest import read_manifest
from pgrpo_cli.data.prepared import load_prepared
from pgrpo_cli.data.records import Message, PreparedPrompt, with_system_prompt
from pgrpo_cli.errors import DataError
from pgrpo_cli.names import nearest
from pgrpo_cli.recipe.conditioning import ABOUT_THE_USER, ProfilesConditioning, PromptConditioning
from pgrpo_cli.recipe.data import DataSection
from pgrpo_cli.recipe.model import ModelSection
from pgrpo_cli.recipe.schema import Recipe
from pgrpo_cli.recipe.templates import Template, TemplateProblem

MAX_NAMES_SHOWN = 10
# Held-out prompts first: what they show has not been trained.
HALVES = ("eval", "train")


@dataclass(frozen=True)
class Preset:
    """Messages before the question: perhaps a system message, perhaps earlier turns; `origin` says whose.

    `own`: the messages without what `data.conditioning` adds to them; None where it adds nothing.
    """

    preference_group: str | None
    messages: tuple[Message, ...]
    origin: str
    user_id: str | None = None
    own: tuple[Message, ...] | None = None

    @property
    def recorded(self) -> tuple[Message, ...]:
        """What stands before the question in a rating or a pick. The next run adds its conditioning again."""
        return self.messages if self.own is None else self.own


def group_preset(run_dir: Path, recipe: Recipe, preference_group: str) -> Preset:
    """As somebody of a preference group. Raises DataError where the run's data have no such group."""
    return group_presets(run_dir, recipe, [preference_group])[0]


def group_presets(run_dir: Path, recipe: Recipe, preference_groups: Sequence[str]) -> list[Preset]:
    """The same of several preference groups, for which the data are read once."""
    names = preference_groups_of(run_dir)
    for group in preference_groups:
        if group not in names:
            raise _unknown("preference group", group, names)
    lending: dict[str, PreparedPrompt] = {}
    for split in HALVES:
        for prompt in load_prepared(run_dir, split):
            group = prompt.preference_group
            lending[group] = _lending(recipe.data, lending.get(group), prompt)
        if not _by_turns(recipe.data) and lending.keys() >= set(preference_groups):
            break
    return [_preset(recipe, lending[group]) for group in preference_groups]


def user_preset(run_dir: Path, recipe: Recipe, user_id: str) -> Preset:
    """As a user of the run's data. Raises DataError where they have no such user."""
    prompts = [prompt for split in HALVES for prompt in load_prepared(run_dir, split)]
    of_user = [prompt for prompt in prompts if prompt.user_id == user_id]
    if not of_user:
        raise _unknown("user", user_id, {prompt.user_id for prompt in prompts if prompt.user_id is not None})
    lending = of_user[0]
    for prompt in of_user:
        lending = _lending(recipe.data, lending, prompt)
    return _preset(recipe, lending)


def profile_preset(recipe: Recipe, profile: str) -> Preset:
    """As somebody whom a text describes, by the recipe's template of profiles, else the default one.

    Raises DataError where that template cannot do without a row of the data.
    """
    section = recipe.data.conditioning
    template = section.template if isinstance(section, ProfilesConditioning) else ABOUT_THE_USER
    try:
        text = Template(template).render(
            {"system_prompt": recipe.model.system_prompt or "", "profile": profile, "row": {}}
        )
    except TemplateProblem as problem:
        raise DataError(
            f"data.conditioning.template needs more than a profile: {problem}",
            remedy="Talk to it as a preference group or as a user of its data instead.",
        ) from problem
    # As in training: what the template leaves empty is the system prompt's.
    own = [{"role": "system", "content": text.strip()}] if text.strip() else []
    return Preset(None, tuple(with_system_prompt(own, recipe.model.system_prompt)), "profile")


def plain_preset(section: ModelSection) -> Preset:
    """As nobody: the recipe's system prompt alone."""
    return Preset(None, tuple(with_system_prompt((), section.system_prompt)), "system prompt")


def preference_groups_of(run_dir: Path) -> list[str]:
    """The preference groups of the run's data, the largest first. Raises DataError without data."""
    manifest = read_manifest(run_dir)
    if manifest is None:
        raise DataError(
            f"{run_dir} has no prepared data", remedy="Run `pgrpo prepare` with its recipe first."
        )
    return list(manifest.get("preference_groups", {}))


def _by_turns(section: DataSection) -> bool:
    """Whether prompts of one group tell different things, such as examples. The first ones may have none."""
    return section.conditioning.type not in ("prompt", "profiles")


def _lending(section: DataSection, found: PreparedPrompt | None, prompt: PreparedPrompt) -> PreparedPrompt:
    """Which of two prompts lends what stands before it: the first, or the first with the most turns."""
    if found is None or (_by_turns(section) and len(prompt.messages) > len(found.messages)):
        return prompt
    return found


def _preset(recipe: Recipe, prompt: PreparedPrompt) -> Preset:
    """What stands before the question of the prompt."""
    section = recipe.data.conditioning
    before = prompt.messages[:-1]
    system = before[: bool(before) and before[0]["role"] == "system"]
    plain, own = plain_preset(recipe.model).messages, None
    if section.type == "profiles":
        before, own, origin = system, plain, "profile"
    elif section.type == "examples":
        own = system
        whose = f"user {prompt.user_id}" if prompt.user_id else f"prompt {prompt.prompt_id}"
        origin = f"examples of {whose}"
    else:
        origin = f"prompt {prompt.prompt_id}"
        if _repeats(section):
            own = (*plain, *before[len(system) :])
    return Preset(prompt.preference_group, before, origin, prompt.user_id, own)


def _repeats(section: PromptConditioning) -> bool:
    """Whether the template can write the same for a rating or a pick, which has no columns of the row."""
    if section.template is None:
        return False
    return Template(section.template).variables <= {"system_prompt", "preference_group"}


def _unknown(what: str, name: str, known: Iterable[str]) -> DataError:
    known = list(known)
    near = nearest(name, known)
    names = ", ".join(map(repr, sorted(known)[:MAX_NAMES_SHOWN])) or "none"
    more = f" and {len(known) - MAX_NAMES_SHOWN} more" if len(known) > MAX_NAMES_SHOWN else ""
    return DataError(
        f"the data of the run have no {what} {name!r}; they have {names}{more}",
        remedy=f"Did you mean {near!r}?" if near else f"Name a {what} of the data.",
    )
