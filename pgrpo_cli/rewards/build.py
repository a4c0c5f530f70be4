"""From recipe sections to one weighted sum that records every part."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pgrpo_cli.errors import PgrpoError, RecipeError, RewardError
from pgrpo_cli.recipe.rewards import RewardBase
from pgrpo_cli.registry import Registry

from .base import BuildContext, Completion, RewardFunction, Score
from .personas import build_personas
from .plugin import build_plugin
from .python_file import build_python
from .simple import build_keyword, build_length, build_regex

Factory = Callable[[Any, BuildContext], RewardFunction]

# The `type` of a recipe's reward section -> the factory that takes the section.
FACTORIES: dict[str, Factory] = {
    "personas": build_personas,
    "regex": build_regex,
    "length": build_length,
    "keyword": build_keyword,
    "python": build_python,
    "plugin": build_plugin,
}
REWARDS: Registry[Factory] = Registry("reward")
for _name, _factory in FACTORIES.items():
    REWARDS.add(_name, _factory)


@dataclass(frozen=True)
class Term:
    """One summand: a reward, its weight, the name it records under, the preference groups it serves."""

    label: str
    weight: float
    preference_groups: frozenset[str] | None
    function: RewardFunction

    def applies_to(self, completion: Completion) -> bool:
        return self.preference_groups is None or completion.preference_group in self.preference_groups

    def part_key(self, part: str) -> str:
        """`label` where there is only one part, else `label.part`."""
        return self.label if len(self.function.parts) == 1 else f"{self.label}.{part}"


@dataclass(frozen=True)
class RewardSum:
    """sum of weight · value over the rewards that apply to a completion's preference group.

    A NaN of a reward with nonzero weight makes the total NaN: the completion gives no signal. A part that is
    NaN, or whose reward does not apply, is left out of `parts`. Weight 0 records parts and adds nothing.
    """

    terms: tuple[Term, ...]

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(term.part_key(part) for term in self.terms for part in term.function.parts)

    def __call__(self, completions: Sequence[Completion]) -> list[Score]:
        """Scores in the order of `completions`. Raises RewardError if a reward raises or gives no number."""
        totals = [0.0] * len(completions)
        parts: list[dict[str, float]] = [{} for _ in completions]
        for term in self.terms:
            chosen = [index for index, completion in enumerate(completions) if term.applies_to(completion)]
            if not chosen:
                continue
            for index, score in zip(
                chosen, _checked_call(term, [completions[i] for i in chosen]), strict=True
            ):
                if term.weight != 0:
                    totals[index] += term.weight * score.value
                parts[index].update({term.part_key(part): value for part, value in score.parts.items()})
        return [Score(total, recorded) for total, recorded in zip(totals, parts, strict=True)]


def build_rewards(sections: Sequence[RewardBase], recipe_dir: Path, allow_code: bool) -> RewardSum:
    """Build every reward of a recipe. Raises RecipeError where one cannot be built or two share a name.

    `recipe_dir` is where relative paths start; `allow_code` permits Python files named in the recipe to run.
    """
    context = BuildContext(Path(recipe_dir), allow_code)
    terms: list[Term] = []
    for index, section in enumerate(sections):
        taken = [position for position, term in enumerate(terms) if term.label == section.label]
        if taken:
            raise RecipeError(
                f"rewards[{taken[0]}] and rewards[{index}] would both be recorded as {section.label!r}",
                remedy="Give one of them a `name` of its own.",
            )
        groups = None if section.preference_groups is None else frozenset(section.preference_groups)
        function = REWARDS[section.type](section, context)  # type: ignore[attr-defined]
        terms.append(Term(section.label, section.weight, groups, function))
    return RewardSum(tuple(terms))


def _checked_call(term: Term, completions: Sequence[Completion]) -> list[Score]:
    try:
        scores = list(term.function(completions))
    except PgrpoError:
        raise
    except Exception as error:
        culprit = _first_that_raises(term.function, completions)
        raise RewardError(
            f"reward {term.label!r} raised {type(error).__name__}: {error}; {_where(culprit)}",
            remedy="Correct the reward, or let it return NaN for completions that it cannot score.",
        ) from error
    if len(scores) != len(completions):
        raise RewardError(
            f"reward {term.label!r} returned {len(scores)} values for {len(completions)} completions; "
            f"{_where(completions[0])}",
            remedy="Return one number for each completion, in order.",
        )
    return [
        _finite_score(term, score, completion) for score, completion in zip(scores, completions, strict=True)
    ]


def _finite_score(term: Term, score: Score, completion: Completion) -> Score:
    if not isinstance(score, Score):
        raise RewardError(
            f"reward {term.label!r} returned {score!r} where a Score was due; {_where(completion)}",
            remedy="Return pgrpo_cli.rewards.Score(value, parts) for each completion.",
        )
    value = as_reward(score.value, term.label, completion)
    parts = {name: as_reward(part, f"{term.label}.{name}", completion) for name, part in score.parts.items()}
    unknown: Mapping[str, float] = {
        name: part for name, part in parts.items() if name not in term.function.parts
    }
    if unknown:
        raise RewardError(
            f"reward {term.label!r} recorded part {next(iter(unknown))!r}, which it does not declare",
            remedy=f"Declare it in `parts` (declared: {', '.join(term.function.parts)}).",
        )
    return Score(value, {name: part for name, part in parts.items() if not math.isnan(part)})


def as_reward(value: Any, label: str, completion: Completion) -> float:
    """`value` as a float, NaN allowed. Raises RewardError for infinities, texts and other non-numbers."""
    number: float | None = None
    if not isinstance(value, str | bytes):
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError, RuntimeError):
            number = None
    if number is None or math.isinf(number):
        raise RewardError(
            f"reward {label!r} returned {value!r} ({type(value).__name__}), which is no finite number; "
            f"{_where(completion)}",
            remedy="Return a number, or NaN where a completion cannot be scored.",
        )
    return number


def _first_that_raises(function: RewardFunction, completions: Sequence[Completion]) -> Completion:
    for completion in completions:
        try:
            function([completion])
        except Exception:
            return completion
    return completions[0]


def _where(completion: Completion) -> str:
    text = completion.text if len(completion.text) <= 80 else completion.text[:77] + "..."
    group = completion.preference_group
    return f"prompt {completion.prompt_id} of preference group {group!r}, completion {text!r}"
