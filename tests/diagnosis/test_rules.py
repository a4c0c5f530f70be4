"""A made run with one illness: its rule speaks, and no other at any time. A healthy one: none does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pgrpo_cli.algo.estimators import PRESETS
from pgrpo_cli.diagnosis.finding import Finding
from pgrpo_cli.diagnosis.rules import RULES, diagnose
from pgrpo_cli.state.run import RunDirectory
from pgrpo_cli.state.run_view import RunReader, view_of
from tests.support.made_runs import STEPS, Made, Random, healthy, make


def findings_over_time(path: Path, made: Made) -> list[Finding]:
    """All findings of looks at every fifth step, the last look's at the end."""
    found: list[Finding] = []
    readers: list[RunReader] = []

    def look(run: RunDirectory, record: dict[str, Any]) -> None:
        if not readers:
            readers.append(RunReader(run, run.recipe()))
        readers[0].tell(record)
        if record["step"] % 5 == 0:
            found.extend(diagnose(readers[0].view()).findings)

    run = make(path, made, on_step=look)
    # What has been followed step by step is what one look at the files sees.
    last = diagnose(view_of(run))
    assert list(last.findings) == found[len(found) - len(last.findings) :]
    assert not last.unanswered or set(last.unanswered) <= {rule.asks for rule in RULES}
    return found


def only_in(preference_group: str, ill: Callable[..., dict[str, float]]) -> Callable[..., dict[str, float]]:
    """Parts of one preference group; the others are healthy."""

    def parts(progress: float, name: str, prompt: float, random: Random) -> dict[str, float]:
        return (ill if name == preference_group else healthy)(progress, name, prompt, random)

    return parts


def changed(**values: Callable[[float, float, Random], float]) -> Callable[..., dict[str, float]]:
    """Healthy parts, some of them replaced by functions of (progress, the other part, randomness)."""

    def parts(progress: float, name: str, prompt: float, random: Random) -> dict[str, float]:
        found = healthy(progress, name, prompt, random)
        other = {"helpful": found["brief"], "brief": found["helpful"]}
        return found | {part: value(progress, other[part], random) for part, value in values.items()}

    return parts


def alike_within_prompts(progress: float, name: str, prompt: float, random: Random) -> dict[str, float]:
    return {"helpful": 0.4 + 0.2 * progress + 0.1 * prompt, "brief": 0.5}


def half_missing(progress: float, name: str, prompt: float, random: Random) -> dict[str, float]:
    found = healthy(progress, name, prompt, random)
    return found if random.random() < 0.3 else {**found, "helpful": float("nan")}


def difficult(progress: float, name: str, prompt: float, random: Random) -> dict[str, float]:
    """Prompts differ by more than their answers do."""
    return healthy(progress, name, 6 * prompt, random)


def noise(progress: float, name: str, prompt: float, random: Random) -> dict[str, float]:
    return healthy(0.0, name, prompt, random)


def only_calm_learns(progress: float, name: str, prompt: float, random: Random) -> dict[str, float]:
    return healthy(3 * progress if name == "calm" else 0.0, name, prompt, random)


def leaps(progress: float, name: str, prompt: float, random: Random) -> dict[str, float]:
    """From nothing to all in the second half: the mean of the past then says nothing of the present."""
    found = healthy(0.0, name, 0.0, random)
    return {part: value + 2.0 * (progress > 0.7) for part, value in found.items()}


ILLNESSES: dict[str, tuple[Made, str | None]] = {
    "missing-rewards": (Made(parts=half_missing), None),
    "no-spread": (Made(parts=only_in("loud", lambda *_: {"helpful": 0.0, "brief": 0.0})), "loud"),
    "dead-generation-groups": (Made(parts=only_in("loud", alike_within_prompts)), "loud"),
    "constant-part": (
        Made(parts=changed(helpful=lambda *_: 0.0, brief=lambda progress, other, random: other)),
        None,
    ),
    "fighting-parts": (
        Made(parts=changed(brief=lambda p, other, r: 0.9 - other + 0.05 * r.standard_normal())),
        None,
    ),
    "cut-at-limit": (Made(finished=0.02), None),
    "length-collapse": (Made(length=lambda progress: 40.0 if progress < 0.5 else 8.0), None),
    "diversity-collapse": (Made(texts=2, entropy=lambda progress: 1.5 - 1.4 * progress), "calm"),
    "majority-capture": (
        Made(parts=only_calm_learns, words=lambda progress, _: " with thanks" if progress > 0.4 else ""),
        "calm",
    ),
    "reward-falls": (
        Made(parts=changed(helpful=lambda p, o, r: 0.5 - 0.4 * p + 0.15 * r.standard_normal())),
        None,
    ),
    "reward-stuck": (Made(parts=noise, kl=lambda progress: 1e-4 * progress), None),
    "kl-explodes": (Made(kl=lambda progress: 0.01 * 1000**progress), None),
    "gradients-clipped": (Made(grad_norm=6.0), None),
    "history-lag": (Made(parts=only_in("loud", leaps)), "loud"),
    "inefficient-estimator": (Made(parts=difficult), None),
    "rare-preference-group": (Made(training_prompts={"calm": 150, "loud": 150, "rare": 3}), "rare"),
}


def test_every_rule_has_its_illness() -> None:
    # What an evaluation finds has its own test (test_personalization.py).
    assert {*ILLNESSES, "served-alike"} == {rule.name for rule in RULES}
    assert len({rule.asks for rule in RULES}) == len(RULES)


@pytest.mark.parametrize("rule", ILLNESSES)
def test_an_illness_is_found_and_nothing_else(rule: str, tmp_path: Path) -> None:
    made, preference_group = ILLNESSES[rule]
    found = findings_over_time(tmp_path / "run", made)
    assert {finding.rule for finding in found} == {rule}
    assert preference_group in {finding.preference_group for finding in found}
    for finding in found:
        assert finding.says.endswith(".") and finding.remedy.endswith(".")
        assert "nan" not in finding.says + finding.remedy
    # Something must be there to do: a key of the recipe, with a value or by name.
    assert any(mark in found[-1].remedy for mark in ("=", "`", "train.", "rollout."))


def test_a_healthy_run_has_no_finding_at_any_time(tmp_path: Path) -> None:
    assert findings_over_time(tmp_path / "run", Made()) == []
    diagnosis = diagnose(view_of(RunDirectory(tmp_path / "run")))
    assert diagnosis.answered == tuple(rule.asks for rule in RULES if rule.name != "served-alike")
    assert list(diagnosis.unanswered.values()) == ["no evaluation with a personalization matrix yet"]


def test_nothing_is_said_of_a_run_that_has_only_begun(tmp_path: Path) -> None:
    run = make(tmp_path / "run", ILLNESSES["no-spread"][0], steps=9)
    diagnosis = diagnose(view_of(run))
    assert (diagnosis.findings, diagnosis.answered) == ((), ())
    assert set(diagnosis.unanswered.values()) == {"rules need 10 steps"}
    assert diagnose(view_of(make(tmp_path / "longer", ILLNESSES["no-spread"][0], steps=10))).findings


def said(path: Path, made: Made, steps: int = STEPS) -> Finding:
    """The only finding at the end of a run."""
    (finding,) = diagnose(view_of(make(path, made, steps=steps))).findings
    return finding


def test_a_reward_that_is_stuck_has_three_reasons(tmp_path: Path) -> None:
    # Twice as many steps as elsewhere: that a reward stands still takes longer to know than that it moves.
    steps = 2 * STEPS
    unmoved = said(tmp_path / "unmoved", Made(parts=noise, kl=lambda progress: 1e-4), steps)
    assert "has hardly moved" in unmoved.says and "train.learning_rate=0.0003" in unmoved.remedy
    without_kl = Made(parts=noise, kl=lambda progress: None, recipe={"loss__beta": 0.0})
    unknown = said(tmp_path / "unknown", without_kl, steps)
    assert "this is not certain" in unknown.says and "loss.beta=0.001" in unknown.remedy
    moved = said(tmp_path / "moved", Made(parts=noise, kl=lambda progress: 0.1), steps)
    assert "The model has moved" in moved.says and f"train.prompts_per_step={2 * 6}" in moved.remedy


def test_a_reward_near_its_top_is_not_stuck(tmp_path: Path) -> None:
    """Keywords are worth 0 to 1: a mean of 0.95 has nowhere to go, one of 0.5 has."""
    recipe = {
        "rewards": [{"type": "keyword", "keywords": ["x"], "name": n} for n in ("helpful", "brief")],
    }

    def near(mean: float) -> Made:
        def parts(progress: float, name: str, prompt: float, random: Random) -> dict[str, float]:
            return {part: mean + 0.02 * random.standard_normal() for part in ("helpful", "brief")}

        return Made(parts=parts, recipe=recipe)

    assert diagnose(view_of(make(tmp_path / "top", near(0.95), steps=2 * STEPS))).findings == ()
    assert said(tmp_path / "middle", near(0.5), 2 * STEPS).rule == "reward-stuck"


def test_a_history_that_forgets_does_not_lag(tmp_path: Path) -> None:
    made = ILLNESSES["history-lag"][0]
    lagging = said(tmp_path / "cumulative", made)
    assert "history.kind.type=ema" in lagging.remedy
    kind = {"type": "ema", "decay": 0.98}
    forgets = Made(parts=made.parts, recipe={"history__kind": kind})
    assert diagnose(view_of(make(tmp_path / "ema", forgets))).findings == ()
    centred = Made(parts=made.parts, recipe={"advantage__estimator": "grpo"})
    diagnosis = diagnose(view_of(make(tmp_path / "grpo", centred)))
    assert diagnosis.findings == ()
    assert "advantage.estimator grpo does not subtract the history's mean" in diagnosis.unanswered.values()


def test_random_preference_groups_have_no_history_that_could_be_judged(tmp_path: Path) -> None:
    drawn = Made(recipe={"history__preference_groups": "random"})
    unanswered = diagnose(view_of(make(tmp_path / "run", drawn))).unanswered
    assert sum(why.startswith("history.preference_groups is random") for why in unanswered.values()) == 2


def test_what_dead_prompts_cost_depends_on_the_estimator(tmp_path: Path) -> None:
    parts = ILLNESSES["dead-generation-groups"][0].parts
    assert "They distinguish prompts" in said(tmp_path / "history", Made(parts=parts)).says
    grpo = said(tmp_path / "grpo", Made(parts=parts, recipe={"advantage__estimator": "grpo"}))
    assert "With advantage.estimator grpo nothing is learnt from them" in grpo.says
    for name, (baseline, _) in PRESETS.items():
        told = said(tmp_path / f"all-{name}", Made(parts=parts, recipe={"advantage__estimator": name})).says
        assert ("nothing is learnt" in told) == (baseline in ("prompt", "leave_one_out"))


def test_without_kl_its_rule_says_why_it_is_silent(tmp_path: Path) -> None:
    run = make(tmp_path / "run", Made(kl=lambda progress: None, recipe={"loss__beta": 0.0}))
    diagnosis = diagnose(view_of(run))
    assert diagnosis.findings == ()
    why, _ = diagnosis.unanswered.values()
    assert "loss.beta above 0" in why


def test_a_short_run_is_a_trial_in_which_everything_is_rare(tmp_path: Path) -> None:
    counts = {"calm": 150, "loud": 150, "rare": 3}
    trial = Made(training_prompts=counts, recipe={"train__steps": 16})
    assert diagnose(view_of(make(tmp_path / "run", trial, steps=16))).findings == ()
    assert STEPS * 6 * 3 / 303 < 5


def test_no_preference_group_is_rare_where_all_are_sampled_equally_often(tmp_path: Path) -> None:
    counts = {"calm": 150, "loud": 150, "rare": 3}
    balanced = Made(training_prompts=counts, recipe={"train__sampler": "balanced"})
    assert diagnose(view_of(make(tmp_path / "run", balanced))).findings == ()


def test_the_documentation_has_a_row_for_every_rule() -> None:
    text = (Path(__file__).parents[2] / "docs" / "diagnosis.md").read_text(encoding="utf-8")
    rows = [line.split(" | ")[0] for line in text.splitlines() if line.startswith("| `")]
    assert rows == [f"| `{rule.name}`" for rule in RULES]
