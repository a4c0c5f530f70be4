"""What the recipe's rewards find in the rows, and give to reference answers, before a GPU is paid for.

Rows that a reward cannot score, and preference groups whose rewards differ in mean and spread, show here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from pgrpo_cli.errors import DataError, PgrpoError, RewardError
from pgrpo_cli.recipe.reward_base import RewardBase
from pgrpo_cli.rewards.base import Completion
from pgrpo_cli.rewards.build import ROW_CHECKS, build_rewards
from pgrpo_cli.rewards.scoring import Scorer

from .records import PreparedPrompt, PromptRecord, completion_of

COLUMN = "reference"
MAX_SCORED = 200
"""Reference answers of a preference group that are scored: the first ones."""


@dataclass(frozen=True)
class ReferenceRewards:
    """Weighted sums over the reference answers: (mean, standard deviation) by preference group.

    The deviation of a single answer is None. `scored` and `left_out` are labels of rewards; `problem` is why
    nothing could be scored.
    """

    by_group: Mapping[str, tuple[float, float | None]]
    scored: tuple[str, ...]
    left_out: tuple[str, ...]
    problem: str | None = None


def require_scorable(
    prompts: Mapping[str, Sequence[PreparedPrompt]],
    records: Mapping[str, Sequence[PromptRecord]],
    sections: Sequence[RewardBase],
) -> None:
    """Raises DataError for rows that lack what a reward reads from their columns: they would end training in
    the step that draws the first of them.

    `prompts` and their `records` by half, in the same order.
    """
    pairs = [pair for half in prompts for pair in zip(prompts[half], records[half], strict=True)]
    for section in sections:
        if type(section) not in ROW_CHECKS:
            continue
        check, limit = ROW_CHECKS[type(section)](section), section.preference_groups
        failures: list[tuple[PromptRecord, RewardError]] = []
        for prompt, record in pairs:
            if limit is None or prompt.preference_group in limit:
                try:
                    check(completion_of(prompt, ""))
                except RewardError as error:
                    failures.append((record, error))
        if failures:
            first, why = failures[0]
            where = f"{first.file}:{first.line}" if first.line is not None else first.prompt_id
            raise DataError(
                f"{len(failures):,} of {len(pairs):,} prompts cannot be rewarded, the first: {where}: "
                f"{why.message}",
                remedy=why.remedy,
            )


def reference_rewards(
    prompts: Sequence[PreparedPrompt], sections: Sequence[RewardBase], recipe_dir: Path
) -> ReferenceRewards | None:
    """Score the texts of the column `reference`. None where no row has one, or no reward is cheap."""
    cheap = [section for section in sections if section.cheap]
    labels = tuple(section.label for section in cheap)
    left_out = tuple(section.label for section in sections if section not in cheap)
    chosen = _with_reference(prompts)
    if not chosen or not cheap:
        return None
    completions = [
        Completion(
            prompt.prompt_id,
            prompt.preference_group,
            prompt.prompt,
            text,
            prompt.columns,
            prompt.messages,
            prompt.user_id,
        )
        for prompt, text in chosen
    ]
    try:
        with Scorer(build_rewards(cheap, recipe_dir, False)) as scorer:
            scores = scorer.start().scores(completions)
    except PgrpoError as error:
        return ReferenceRewards({}, labels, left_out, error.message)
    values: dict[str, list[float]] = defaultdict(list)
    for completion, score in zip(completions, scores, strict=True):
        # NaN is no reward, as in training.
        if score.value == score.value:
            values[completion.preference_group].append(score.value)
    by_group = {
        group: (mean(found), stdev(found) if len(found) > 1 else None) for group, found in values.items()
    }
    return ReferenceRewards(by_group, labels, left_out)


def reference_of(prompt: PreparedPrompt) -> str | None:
    """The reference answer, where the row has one."""
    text = prompt.columns.get(COLUMN)
    return text if isinstance(text, str) and text.strip() else None


def _with_reference(prompts: Sequence[PreparedPrompt]) -> list[tuple[PreparedPrompt, str]]:
    taken: dict[str, int] = defaultdict(int)
    chosen = []
    for prompt in prompts:
        text = reference_of(prompt)
        if text is not None and taken[prompt.preference_group] < MAX_SCORED:
            taken[prompt.preference_group] += 1
            chosen.append((prompt, text))
    return chosen
