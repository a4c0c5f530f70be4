"""Whatever legal numbers a run holds, no rule raises or warns, and what is said is readable and JSON."""

from __future__ import annotations

import json
import warnings
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from pgrpo_cli.diagnosis.progress import reassurances
from pgrpo_cli.diagnosis.rules import RULES, diagnose
from pgrpo_cli.diagnosis.view import Completions, Metrics, PastRewards, RunView, TrainingPrompts
from pgrpo_cli.recipe.schema import Recipe
from tests.support.recipes import changed

NAMES = ("a", "b", "é", "")
numbers = st.one_of(st.sampled_from([0.0, 1.0, -1.0, 1e-12, 1e300]), st.floats(-1e6, 1e6))
perhaps = st.one_of(st.none(), numbers)

RECIPES = [
    Recipe.model_validate(changed(**values))
    for values in (
        {},
        {"advantage__estimator": "grpo", "loss__beta": 0.5},
        {"advantage__epsilon": 0.0, "history__kind": {"type": "window", "size": 4}},
        {
            "rewards": [
                {"type": "keyword", "keywords": ["x"], "name": "p"},
                {"type": "length", "max": 3, "name": "q", "weight": -2.0, "preference_groups": ["a"]},
            ],
            "advantage": {"estimator": "custom", "baseline": "shrinkage", "scale": "none"},
            "history__kind": {"type": "ema", "decay": 0.5},
        },
    )
]


@st.composite
def completions(draw: st.DrawFn) -> Completions:
    """Some steps of some prompts, each with one completion or more; many rewards are alike."""
    values = draw(st.lists(perhaps, min_size=1, max_size=3))
    rows: list[dict[str, Any]] = []
    first = draw(st.integers(1, 60))
    prompts, generations = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    # Chosen by a generator of its own: a thousand draws would take hypothesis minutes to shrink.
    random = draw(st.randoms(use_true_random=False))
    for step in range(first, first + draw(st.integers(0, 14))):
        for prompt in range(prompts):
            name = random.choice(NAMES)
            for _ in range(generations):
                parts = {key: random.choice(values) for key in ("p", "q", "r.s") if random.random() < 0.8}
                rows.append({"s": step, "p": prompt, "g": name, "r": random.choice(values), "parts": parts})
    return Completions.of(
        steps=[row["s"] for row in rows],
        prompts=[row["p"] for row in rows],
        preference_groups=[row["g"] for row in rows],
        rewards=[row["r"] for row in rows],
        parts=[row["parts"] for row in rows],
        lengths=[random.randrange(50) for _ in rows],
        texts=[random.choice(["", "x", "y"]) for _ in rows],
    )


@st.composite
def metrics(draw: st.DrawFn) -> Metrics:
    """Consecutive lines in which anything but the step may be missing or null."""
    keys = ("kl", "loss", "grad_norm", "entropy", "completion_length_mean", "truncated_fraction")
    values = draw(st.lists(perhaps, min_size=1, max_size=4))
    lines: list[dict[str, Any]] = []
    random = draw(st.randoms(use_true_random=False))
    for step in range(1, 1 + draw(st.integers(0, 60))):
        line: dict[str, Any] = {"step": step}
        line |= {key: random.choice(values) for key in keys if random.random() < 0.9}
        if random.random() < 0.8:
            mean = random.choice(values)
            line["groups"] = {NAMES[step % 3]: {"n": 1 + step % 4, "mean": 0.5 if mean is None else mean}}
        lines.append(line)
    return Metrics(tuple(lines))


views = st.builds(
    RunView,
    recipe=st.sampled_from(RECIPES),
    metrics=metrics(),
    completions=completions(),
    histories=st.dictionaries(
        st.sampled_from(NAMES), st.builds(PastRewards, st.floats(1, 1e6), numbers, st.floats(0, 1e6))
    ),
    training_prompts=st.builds(
        TrainingPrompts, st.dictionaries(st.sampled_from(NAMES), st.integers(0, 10**6))
    ),
    first_completions=completions(),
)


def test_a_run_without_any_reward_has_no_findings() -> None:
    none = Completions.of(
        steps=[], prompts=[], preference_groups=[], rewards=[], parts=[], lengths=[], texts=[]
    )
    view = RunView(
        recipe=RECIPES[0],
        metrics=Metrics(({"step": 1}, {"step": 2})),
        completions=none,
        histories={},
        training_prompts=TrainingPrompts({}),
        first_completions=none,
    )
    assert not diagnose(view).findings


@settings(max_examples=100)
@given(view=views)
def test_no_rule_raises(view: RunView) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        diagnosis = diagnose(view)
        told = list(reassurances(view))
    json.dumps([finding.as_json() for finding in diagnosis.findings], allow_nan=False)
    # A rule says something, or why it does not, or that it has been asked.
    asked = {*diagnosis.answered, *diagnosis.unanswered}
    assert asked == {rule.asks for rule in RULES}
    assert len({finding.key for finding in diagnosis.findings}) == len(diagnosis.findings)
    assert not any(" nan" in text or " inf" in text for text in told)
