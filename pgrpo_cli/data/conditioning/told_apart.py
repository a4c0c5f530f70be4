"""Can the model tell who asks? What the prompts alone say of the preference group, before any GPU hour."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

from pgrpo_cli.data.records import PreparedPrompt
from pgrpo_cli.errors import DataError
from pgrpo_cli.recipe.reward_base import RewardBase
from pgrpo_cli.seeding import derive_seed

MOST_AMBIGUOUS = 0.5
"""A larger share of prompts that do not tell who asks is an error."""
SHOWN = 2
MAX_PROMPTS = {"train": 1000, "eval": 500}
"""Prompts that the classifier is fitted to, and those that it is tried on: drawn by the seed."""
MAX_GROUPS = 32
"""Preference groups that it tells apart: the largest."""
MAX_CHARACTERS = 4000
"""Of a prompt, half of them from its beginning and half from its end."""
MAX_WORDS = 5000
_EXCERPT = 100
DOCUMENTED = "docs/data.md, Telling the model who asks, has examples."
REMEDY = (
    "Say who asks, under `data`: `conditioning: {type: profiles, profiles: auto}`, or with a text of your "
    "own for each preference group, or `{type: examples}` with earlier answers of the user."
)


@dataclass(frozen=True)
class SameText:
    """A prompt that reads the same in another preference group. `question`: its last message, cut short."""

    question: str
    preference_groups: tuple[str, ...]


@dataclass(frozen=True)
class ToldApart:
    """What prompts say of who asks.

    `ambiguous_share`: of the prompts, those that another preference group has word for word, although it is
    rewarded otherwise; `examples` are some of them. `classifier_accuracy`: share of held-out prompts whose
    preference group a plain classifier names; `chance`: the share of the largest one, `tried` their number.
    None where there is one group or nothing is held out. `differ`: whether groups are rewarded differently
    at all.
    """

    prompts: int
    ambiguous: int
    examples: tuple[SameText, ...] = ()
    classifier_accuracy: float | None = None
    chance: float | None = None
    tried: int = 0
    differ: bool = True

    @property
    def ambiguous_share(self) -> float:
        return self.ambiguous / self.prompts if self.prompts else 0.0

    def as_json(self) -> dict[str, float | None]:
        """The numbers."""
        return {
            "ambiguous_share": round(self.ambiguous_share, 4),
            "classifier_accuracy": self.classifier_accuracy,
            "chance": self.chance,
        }

    @property
    def warnings(self) -> tuple[str, ...]:
        """What keeps the model from serving preference groups differently."""
        if self.ambiguous:
            return (self.same_texts(),)
        if not self.differ or self.classifier_accuracy is None or self.chance is None:
            return ()
        # Of a few prompts even all of them may be chance; more than half of what is left is not taken for it.
        noise = min(2 * sqrt(self.chance * (1 - self.chance) / self.tried), (1 - self.chance) / 2)
        if self.classifier_accuracy > self.chance + noise or self.chance == 1:
            return ()
        return (
            f"a plain classifier names the preference group of {self.classifier_accuracy:.0%} of "
            f"{self.tried} held-out prompts by their text, and always naming the largest one would be right "
            f"for {self.chance:.0%}: perhaps nothing in the prompts tells the model who asks. {REMEDY}",
        )

    def same_texts(self) -> str:
        """How many prompts do not tell who asks, and some of them."""
        shown = "".join(
            f"\n  {' and '.join(map(repr, example.preference_groups))} both ask: {example.question}"
            for example in self.examples
        )
        return (
            f"{self.ambiguous} of {self.prompts} prompts ({self.ambiguous_share:.0%}) read the same in "
            "another preference group, which is rewarded otherwise: nothing tells the model who asks, and "
            f"one answer cannot suit both{shown}"
        )


def told_apart(
    prompts: Mapping[str, Sequence[PreparedPrompt]], rewards: Sequence[RewardBase], seed: int
) -> ToldApart:
    """What the prompts of both halves (`train`, `eval`) say of who asks."""
    every = [prompt for half in prompts.values() for prompt in half]
    groups = Counter(prompt.preference_group for prompt in every)
    if len(groups) < 2:
        return ToldApart(len(every), 0, differ=False)
    rule = _Rewarded(rewards)
    ambiguous = _ambiguous(every, rule)
    accuracy, chance, tried = _classified(prompts, groups, seed)
    return ToldApart(
        len(every),
        sum(len(members) for members in ambiguous),
        tuple(_shown(members) for members in ambiguous[:SHOWN]),
        accuracy,
        chance,
        tried,
        rule.can_differ,
    )


def require_told_apart(found: ToldApart, *, force: bool) -> None:
    """Raises DataError where most prompts do not tell who asks, unless `force`."""
    if found.ambiguous_share > MOST_AMBIGUOUS and not force:
        raise DataError(
            f"the model cannot tell who asks: {found.same_texts()}",
            remedy=f"{REMEDY} {DOCUMENTED} Or train on it as it is, with --force.",
        )


class _Rewarded:
    """Which prompts of one text may be rewarded otherwise: by their preference group, or by their row."""

    def __init__(self, rewards: Sequence[RewardBase]) -> None:
        self._counting = [reward for reward in rewards if reward.weight]

    @property
    def can_differ(self) -> bool:
        """Whether anything depends on the preference group or the row."""
        return any(
            _looks_at_group(reward) or reward.preference_groups is not None or _columns(reward)
            for reward in self._counting
        )

    def __call__(self, prompt: PreparedPrompt) -> Any:
        """Equal for prompts that are rewarded alike."""
        group = prompt.preference_group
        # A reward that is limited to other groups is 0, whatever the group and the row are.
        applied = [
            reward
            for reward in self._counting
            if reward.preference_groups is None or group in reward.preference_groups
        ]
        return tuple(
            (
                reward.label,
                group if _looks_at_group(reward) else None,
                tuple(repr(prompt.columns.get(name)) for name in _columns(reward)),
            )
            for reward in applied
        )


def _looks_at_group(reward: RewardBase) -> bool:
    """Whether its value may depend on the preference group: of a user's code or a judge nobody knows."""
    return reward.by_preference_group is not False


def _columns(reward: RewardBase) -> list[str]:
    """The columns that a reward reads: the values of its keys `..._column`."""
    values = (getattr(reward, key) for key in type(reward).model_fields if key.endswith("_column"))
    return [value for value in values if isinstance(value, str)]


def _ambiguous(prompts: Sequence[PreparedPrompt], rewarded: _Rewarded) -> list[list[PreparedPrompt]]:
    """Prompts of one text each, those that another preference group is rewarded otherwise for."""
    by_text: dict[str, list[PreparedPrompt]] = defaultdict(list)
    for prompt in prompts:
        by_text[prompt.prompt].append(prompt)
    found = []
    for members in by_text.values():
        if len({prompt.preference_group for prompt in members}) > 1:
            kinds = {(prompt.preference_group, rewarded(prompt)) for prompt in members}
            found.append(
                [
                    prompt
                    for prompt in members
                    if any(g != prompt.preference_group and k != rewarded(prompt) for g, k in kinds)
                ]
            )
    return sorted(filter(None, found), key=len, reverse=True)


def _shown(members: Sequence[PreparedPrompt]) -> SameText:
    text = " ".join(members[0].messages[-1]["content"].split()) if members[0].messages else ""
    question = text if len(text) <= _EXCERPT else f"{text[: _EXCERPT - 3]}..."
    groups = tuple(sorted({prompt.preference_group for prompt in members}))
    return SameText(question, groups[:SHOWN])


def _classified(
    prompts: Mapping[str, Sequence[PreparedPrompt]], groups: Counter[str], seed: int
) -> tuple[float | None, float | None, int]:
    """(share of held-out prompts whose group is named, share of the largest group of them, how many)."""
    largest = {
        group for group, _ in sorted(groups.items(), key=lambda item: (-item[1], item[0]))[:MAX_GROUPS]
    }
    train, held_out = (
        _drawn([p for p in prompts[half] if p.preference_group in largest], MAX_PROMPTS[half], seed)
        for half in ("train", "eval")
    )
    known = {prompt.preference_group for prompt in train}
    held_out = [prompt for prompt in held_out if prompt.preference_group in known]
    if len(known) < 2 or not held_out:
        return None, None, 0
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    # Common words and punctuation count, too: they are what styles differ by.
    vectorizer = TfidfVectorizer(max_features=MAX_WORDS, sublinear_tf=True, token_pattern=r"\w+|[^\w\s]")
    with threadpool_limits(1):
        points = vectorizer.fit_transform([_text(prompt) for prompt in train])
        model = LogisticRegression(C=10.0, max_iter=100, tol=1e-3)
        model.fit(points, [prompt.preference_group for prompt in train])
        named = model.predict(vectorizer.transform([_text(prompt) for prompt in held_out]))
    wanted = [prompt.preference_group for prompt in held_out]
    right = sum(name == group for name, group in zip(named, wanted, strict=True))
    most = Counter(wanted).most_common(1)[0][1]
    return round(right / len(wanted), 4), round(most / len(wanted), 4), len(wanted)


def _drawn(prompts: list[PreparedPrompt], most: int, seed: int) -> list[PreparedPrompt]:
    if len(prompts) <= most:
        return prompts
    return random.Random(derive_seed(seed, "told apart")).sample(prompts, most)


def _text(prompt: PreparedPrompt) -> str:
    """The prompt, of a long one both ends."""
    text = prompt.prompt
    if len(text) <= MAX_CHARACTERS:
        return text
    return f"{text[: MAX_CHARACTERS // 2]}\n{text[-MAX_CHARACTERS // 2 :]}"
