"""Rules between the keys of one reward."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from .messages import KeyPath
from .reward_base import RewardBase
from .reward_judge import JudgeReward
from .reward_model import RewardModelReward
from .reward_personas import PersonasReward
from .reward_recommendation import RecommendationReward
from .reward_similarity import ReferenceReward
from .reward_text import LengthReward, ReadabilityReward, RegexReward, SentimentReward
from .template_rules import rubric_parses
from .violation import Violation

RewardRule = Callable[[KeyPath, RewardBase], Iterator[Violation]]
"""Takes the path of the reward and the reward."""


def interval(path: KeyPath, reward: RewardBase) -> Iterator[Violation]:
    """`min` and `max` enclose something, and are not both left out."""
    if not isinstance(reward, LengthReward | ReadabilityReward | SentimentReward):
        return
    low, high = reward.min, reward.max
    if low is None and high is None:
        rule = "min and max are both null, so that every text is worth the full reward; set one of them"
        yield Violation((*path, "min"), low, rule)
    elif low is not None and high is not None and low > high:
        yield Violation((*path, "min"), low, f"must not be greater than max ({high:.12g}); swap them")


def personas_parts(path: KeyPath, reward: RewardBase) -> Iterator[Violation]:
    """One of the parts counts."""
    if isinstance(reward, PersonasReward) and reward.style_weight == reward.genre_weight == 0:
        rule = "style_weight and genre_weight are both 0, so that every reward is 0; raise one of them"
        yield Violation((*path, "style_weight"), reward.style_weight, rule)


def regex_limit(path: KeyPath, reward: RewardBase) -> Iterator[Violation]:
    """A limit is one of counting."""
    if isinstance(reward, RegexReward) and reward.limit > 1 and not reward.count:
        rule = "limits the matches that `count: true` counts; set count to true, or remove limit"
        yield Violation((*path, "limit"), reward.limit, rule)


def recommendation_parts(path: KeyPath, reward: RewardBase) -> Iterator[Violation]:
    """One of the parts counts, and it is known where candidates are."""
    if not isinstance(reward, RecommendationReward):
        return
    if reward.hit_weight == reward.rank_weight == reward.candidate_weight == 0:
        rule = "all weights of its parts are 0, so that every reward is 0; raise one of them"
        yield Violation((*path, "hit_weight"), reward.hit_weight, rule)
    if reward.candidate_weight and reward.candidates_column is None:
        rule = "needs candidates_column, the column with the list of titles; set it, or set this to 0"
        yield Violation((*path, "candidate_weight"), reward.candidate_weight, rule)


def ratings(path: KeyPath, reward: RewardBase) -> Iterator[Violation]:
    """A scale has two ends, and rates something."""
    if not isinstance(reward, ReferenceReward):
        return
    low, high = reward.rating_min, reward.rating_max
    if low >= high:
        yield Violation((*path, "rating_min"), low, f"must be less than rating_max ({high:.12g}); swap them")
    elif reward.rating_column is None and (low, high) != (0, 1):
        rule = "rating_min and rating_max are those of a column: name it, or leave them out"
        yield Violation((*path, "rating_column"), None, rule)


def raw_outputs(path: KeyPath, reward: RewardBase) -> Iterator[Violation]:
    """Raw outputs are cut on both sides or on none; the other activations are bounded already."""
    if not isinstance(reward, RewardModelReward):
        return
    low, high = reward.min, reward.max
    if low is None and high is None:
        return
    if reward.activation != "raw":
        rule = f"min and max cut raw outputs, and activation is {reward.activation!r}; remove them"
        yield Violation((*path, "activation"), reward.activation, rule)
    elif low is None or high is None:
        missing, other = ("min", "max") if low is None else ("max", "min")
        yield Violation((*path, missing), None, f"goes with {other}; set both, or none")
    elif low >= high:
        yield Violation((*path, "min"), low, f"must be less than max ({high:.12g}); swap them")


def judge_scale(path: KeyPath, reward: RewardBase) -> Iterator[Violation]:
    """A scale has two ends."""
    if not isinstance(reward, JudgeReward) or len(reward.scale) < 2:
        return
    low, high = reward.scale
    if low >= high:
        yield Violation((*path, "scale", 0), low, f"must be below the highest score ({high}); swap them")


REWARD_RULES: tuple[RewardRule, ...] = (
    interval,
    personas_parts,
    regex_limit,
    recommendation_parts,
    ratings,
    raw_outputs,
    judge_scale,
    rubric_parses,
)
