"""What findings say in detail: too hard or too easy, which part, how many preference groups."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from pgrpo_cli.diagnosis.finding import Finding, percent, shown
from pgrpo_cli.diagnosis.progress import reassurances
from pgrpo_cli.diagnosis.rules import diagnose
from pgrpo_cli.diagnosis.view import Completions, Metrics, PastRewards, RunView, TrainingPrompts
from pgrpo_cli.recipe.schema import Recipe
from tests.support.recipes import changed

KEYWORD = {"type": "keyword", "keywords": ["x"]}


def view(
    given: Mapping[str, list[float | None]],
    *,
    parts: Mapping[str, float] | None = None,
    lines: list[dict[str, Any]] | None = None,
    counts: Mapping[str, int] | None = None,
    past: float = 48,
    mean: float | None = None,
    **recipe: Any,
) -> RunView:
    """A run of 12 steps with one prompt a step and preference group, which gets its rewards of `given` in
    turn, shifted by the step.
    """
    rows = [
        (step, p, name, values[(step + g) % len(values)], f"{step} {name} {g}")
        for step in range(1, 13)
        for p, (name, values) in enumerate(given.items())
        for g in range(4)
    ]
    return RunView(
        Recipe.model_validate(changed(**{"rewards": [KEYWORD], **recipe})),
        Metrics(tuple(lines or [{"step": step} for step in range(1, 13)])),
        Completions.of(
            steps=[row[0] for row in rows],
            prompts=[row[1] for row in rows],
            preference_groups=[row[2] for row in rows],
            rewards=[row[3] for row in rows],
            parts=[parts or {"keyword": row[3]} for row in rows],
            lengths=[9] * len(rows),
            texts=[row[4] for row in rows],
        ),
        {
            name: PastRewards(past, mean_of(values) if mean is None else mean, 0.5)
            for name, values in given.items()
        },
        TrainingPrompts(counts or {}),
    )


def mean_of(values: list[float | None]) -> float:
    """Of the rewards that are known; 0 if none is."""
    known = [value for value in values if value is not None]
    return sum(known) / max(len(known), 1)


def only(view: RunView) -> Finding:
    (finding,) = diagnose(view).findings
    return finding


@pytest.mark.parametrize(
    ("value", "says"), [(0.0, "too hard"), (1.0, "too easy"), (0.5, "returns a constant")]
)
def test_what_every_answer_earns_tells_too_hard_from_too_easy(value: float, says: str) -> None:
    """A keyword is worth 0 to 1."""
    finding = only(view({"a": [value], "b": [0.0, 1.0, 1.0]}))
    assert (finding.rule, finding.preference_group, finding.severity) == ("no-spread", "a", "problem")
    assert says in finding.says
    # 12 steps of 4; the rule of three says that one answer in 16 would have shown.
    assert finding.says.startswith("All 48 rewards of preference group 'a' in steps 1 to 12 are ")
    assert finding.numbers == {"rewards": 48, "value": value}
    assert ("one answer in 16" in finding.says) == (value == 0)


def test_a_weight_below_zero_turns_the_range_round() -> None:
    finding = only(view({"a": [0.0], "b": [0.0, -1.0, -1.0]}, rewards=[{**KEYWORD, "weight": -1.0}]))
    assert "too easy" in finding.says


@pytest.mark.parametrize("of_all", [["a", "b"], ["a"]])
def test_what_only_some_groups_can_earn_is_not_taken_for_the_maximum(of_all: list[str]) -> None:
    # Everyone earns 1 from the shared keyword and nothing from the own one.
    own = [{**KEYWORD, "name": f"own-{name}", "preference_groups": [name]} for name in of_all]
    given = view({"a": [1.0], "b": [1.0]}, rewards=[KEYWORD, *own], parts={"keyword": 1.0, "own-a": 0.0})
    says = only(given).says
    assert "All 96 rewards of all" in says and "too easy" not in says


def test_of_rewards_without_a_range_the_parts_tell() -> None:
    personas = [{"type": "personas"}]
    rewards: dict[str, list[float | None]] = {"a": [2.0], "b": [2.0]}
    zero = only(view(rewards, parts={"personas.style": 0.0, "personas.genre": 0.0}, rewards=personas))
    assert (zero.rule, zero.preference_group) == ("no-spread", None)
    assert "too hard" in zero.says
    some = only(view(rewards, parts={"personas.style": 0.0, "personas.genre": 0.4}, rewards=personas))
    assert "returns a constant" in some.says


@pytest.mark.parametrize(
    ("reward", "beside"),
    [
        ({"type": "readability", "max": 6, "slack": 10}, ("readability.value", "readability.grade")),
        (
            {"type": "recommendation", "candidates_column": "c"},
            ("recommendation.hit", "recommendation.candidate"),
        ),
    ],
)
def test_what_is_recorded_and_not_summed_is_no_part_that_fights(
    reward: dict[str, Any], beside: tuple[str, str]
) -> None:
    rows = [(step, g, (step + g) % 4 / 4) for step in range(1, 25) for g in range(4)]
    found = replace(
        view({"a": [0.5]}, rewards=[reward]),
        completions=Completions.of(
            steps=[row[0] for row in rows],
            prompts=[0] * len(rows),
            preference_groups=["a"] * len(rows),
            rewards=[row[2] for row in rows],
            parts=[dict(zip(beside, (row[2], 1 - row[2]), strict=True)) for row in rows],
            lengths=[9] * len(rows),
            texts=[f"{row[0]} {row[1]}" for row in rows],
        ),
    )
    assert diagnose(found).findings == ()


def test_a_spread_below_epsilon_is_drowned_where_a_scale_divides() -> None:
    rewards: dict[str, list[float | None]] = {"a": [0.5, 0.50005]}
    assert "not more than advantage.epsilon (0.0001)" in only(view(rewards)).says
    assert diagnose(view(rewards, advantage__estimator="rloo")).findings == ()


def test_few_rewards_are_no_proof() -> None:
    """12 prompts with 2 known rewards each are 24, and 32 are needed; with 3 each there are 36."""
    few: dict[str, list[float | None]] = {"a": [0.0, None], "b": [0.0, 1.0, 1.0]}
    assert only(view(few, advantage__estimator="grpo")).rule == "dead-generation-groups"
    assert diagnose(view(few)).findings == ()
    assert only(view({"a": [0.0, 0.0, 0.0, None], "b": [0.0, 1.0, 1.0]})).rule == "no-spread"


def test_many_preference_groups_are_one_finding() -> None:
    rewards: dict[str, list[float | None]] = {f"user {i}": [0.0] for i in range(7)}
    finding = only(view({**rewards, "b": [0.0, 1.0, 1.0]}))
    assert (finding.rule, finding.preference_group) == ("no-spread", None)
    assert finding.says.startswith(
        "7 preference groups are in this state ('user 0', 'user 1', 'user 2', 'user 3', 'user 4' and 2 "
        "more). The first: All 48 rewards of preference group 'user 0'"
    )
    assert finding.numbers["preference_groups"] == 7
    three = dict(list(rewards.items())[:3])
    assert len(diagnose(view({**three, "b": [0.0, 1.0, 1.0]})).findings) == 3


def test_many_rare_preference_groups_are_one_finding() -> None:
    """200 steps of 8 prompts: of 100,000 + 10 prompts one is sampled 0.016 times."""
    counts = {"many": 100_000, **{f"user {i}": 1 for i in range(10)}}
    finding = only(view({"many": [0.0, 1.0, 1.0]}, counts=counts))
    assert finding.says.startswith("10 of 11 preference groups, such as 'user 0', 'user 1', 'user 2', are")
    # 1600 sampled of 320 prompts: each is drawn 5 times, which is enough; 4 of 1280 are drawn 5 times too.
    enough = {"many": 1276, "few": 4}
    assert diagnose(view({"many": [0.0, 1.0, 1.0]}, counts=enough)).findings == ()
    rare = only(view({"many": [0.0, 1.0, 1.0]}, counts={"many": 1277, "few": 3}))
    # 1600 * 3 / 1280; ten need 10 / 3 * 1280 / 8 = 533.3 steps.
    assert "about 3.75 times" in rare.says and "train.steps=534" in rare.remedy


def test_two_constant_parts_are_two_things_to_say() -> None:
    rewards = [{**KEYWORD, "name": name} for name in ("p", "q", "r")]
    found = diagnose(view({"a": [0.0, 1.0, 1.0]}, parts={"p": 0.0, "q": 1.0}, rewards=rewards)).findings
    assert [(finding.rule, finding.part) for finding in found] == [
        ("constant-part", "p"),
        ("constant-part", "q"),
    ]
    assert len({finding.key for finding in found}) == 2
    assert "rewards.0.weight=0" in found[0].remedy and "rewards.1.weight=0" in found[1].remedy


def test_a_part_of_weight_zero_is_recorded_only() -> None:
    rewards = [{**KEYWORD, "name": "p"}, {**KEYWORD, "name": "q", "weight": 0.0}]
    assert only(view({"a": [0.0, 1.0, 1.0]}, parts={"p": 0.0, "q": 0.0}, rewards=rewards)).part == "p"


def test_one_gradient_in_twenty_that_is_not_clipped_is_enough() -> None:
    def findings(last: float) -> tuple[Finding, ...]:
        lines = [{"step": step, "grad_norm": 3.0} for step in range(1, 31)]
        return diagnose(view({"a": [0.0, 1.0]}, lines=[*lines, {"step": 31, "grad_norm": last}])).findings

    assert findings(1.0) == ()
    assert [finding.rule for finding in findings(1.1)] == ["gradients-clipped"]


def test_a_young_history_does_not_lag() -> None:
    """Rewards of 5 and 6 beside a mean of 0.5 and a spread of 0.5; 64 past rewards are needed."""
    given: dict[str, list[float | None]] = {"a": [5.0, 6.0]}
    assert diagnose(view(given, past=63, mean=0.5)).findings == ()
    assert only(view(given, past=64, mean=0.5)).rule == "history-lag"


def test_a_history_that_has_forgotten_what_is_older_does_not_lag() -> None:
    """Ten steps with one prompt of four completions: 40 recent rewards."""
    given: dict[str, list[float | None]] = {"a": [5.0, 6.0]}

    def found(**kind: Any) -> Sequence[Finding]:
        return diagnose(view(given, past=200, mean=0.5, history={"kind": kind})).findings

    assert found(type="window", size=40) == found(type="ema", decay=0.975) == ()
    # A window of a quarter, but of four prompts with eight completions at least.
    (lagging,) = found(type="window", size=100)
    assert "Set history.kind.size=32, so that it forgets sooner" in lagging.remedy
    (lagging,) = found(type="ema", decay=0.99)
    assert "history.kind.decay=0.9688 (about 32 rewards), so that it forgets sooner" in lagging.remedy


def test_no_history_shorter_than_four_prompts_is_proposed() -> None:
    given: dict[str, list[float | None]] = {"a": [5.0, 6.0]}
    recipe = {"history": {"kind": {"type": "window", "size": 64}}, "rollout": {"num_generations": 32}}
    finding = only(view(given, past=200, mean=0.5, **recipe))
    assert "Set advantage.estimator=pgrpo_adaptive" in finding.remedy and "size" not in finding.remedy


def test_with_two_completions_the_same_text_twice_is_no_diversity() -> None:
    rows = [(step, p, text) for step in range(1, 13) for p in range(2) for text in ("a", "a")]

    def found(texts: Sequence[str]) -> list[str]:
        seen = view({"a": [0.0, 1.0]})
        completions = Completions.of(
            steps=[step for step, _, _ in rows],
            prompts=[p for _, p, _ in rows],
            preference_groups=["a"] * len(rows),
            rewards=[float(n % 5) for n in range(len(rows))],
            parts=[{"keyword": float(n % 5)} for n in range(len(rows))],
            lengths=[9] * len(rows),
            texts=texts,
        )
        return [finding.rule for finding in diagnose(replace(seen, completions=completions)).findings]

    assert "diversity-collapse" in found([text for _, _, text in rows])
    assert "diversity-collapse" not in found([f"{n}" for n in range(len(rows))])


def test_where_rewards_are_normalised_before_they_are_summed_a_missing_one_costs_itself_alone() -> None:
    both = [KEYWORD, {"type": "length", "max": 9}]
    given: dict[str, list[float | None]] = {"a": [None, None]}

    def rules(aggregate: str, parts: Mapping[str, float]) -> list[str]:
        seen = view(given, parts=parts, rewards=both, advantage={"aggregate": aggregate})
        return [finding.rule for finding in diagnose(seen).findings]

    half = {"keyword": math.nan, "length": 0.5}
    assert "missing-rewards" in rules("sum_then_normalize", half)
    assert "missing-rewards" not in rules("normalize_then_sum", half)
    assert "missing-rewards" in rules("normalize_then_sum", dict.fromkeys(half, math.nan))


def test_the_gravest_comes_first() -> None:
    lines = [{"step": step, "truncated_fraction": 0.9} for step in range(1, 13)]
    found = diagnose(view({"a": [0.0], "b": [0.0, 1.0, 1.0]}, lines=lines)).findings
    assert [finding.severity for finding in found] == ["problem", "warning"]
    # Cut answers may be why nothing is earned.
    assert "why the rewards have no spread" in found[1].says


def test_a_loss_of_zero_is_normal_where_the_gradient_is_not() -> None:
    def told(loss: float, norm: float, **more: float) -> list[str]:
        lines = [{"step": step, "loss": loss, "grad_norm": norm, **more} for step in range(1, 13)]
        return list(reassurances(view({"a": [0.0, 1.0]}, lines=lines)))

    (text,) = told(0.0, 0.4)
    assert text.startswith("A loss near 0 (median 0) is normal") and "(median norm 0.4)" in text
    assert told(0.0, 0.0) == [] and told(0.5, 0.4) == []
    (text,) = told(-0.3, 0.4)
    assert text.startswith("A loss below 0 (median -0.3) is normal")
    assert len(told(0.0, 0.4, kl=0.0)) == 2


def test_numbers_for_reading() -> None:
    assert [shown(v) for v in (-0.0, 0.12345, 1234.0)] == ["0", "0.123", "1.23e+03"]
    assert [percent(v) for v in (0.0, 1.0, 0.99999, 0.00001, 0.5)] == [
        "0 %",
        "100 %",
        "99.9 %",
        "0.1 %",
        "50 %",
    ]
