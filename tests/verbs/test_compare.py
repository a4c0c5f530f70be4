"""Comparing evaluations: differences by hand, verdicts, refusals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pgrpo_cli.errors import IncomparableError, RunError
from pgrpo_cli.eval.targets import EvalTarget, eval_target
from pgrpo_cli.report.sentences import grouping_sentence
from pgrpo_cli.state.results import write_result
from pgrpo_cli.state.run import RunDirectory
from pgrpo_cli.stats.comparison import Comparison
from pgrpo_cli.stats.result_types import EvalResult
from pgrpo_cli.verbs.compare import Entrant, compare, compare_evaluations, entrants_of, flat_keys
from tests.support.results import Rewards, result_of, spread
from tests.support.runs import add_checkpoint, add_curve, make_run, recipe_of

BASE = spread({"calm": 0.1, "loud": 0.2})
FIRST = spread({"calm": 0.3, "loud": 0.5})


def entrant(label: str, tuned: Rewards = FIRST, base: Rewards = BASE, **changes: Any) -> Entrant:
    return Entrant(label, result_of(base, tuned, run=label, **changes))


def test_differences_are_paired_by_prompt() -> None:
    # calm: every prompt 0.2 better. loud: three prompts 0.1 worse, three 0.1 better: 0. Macro: 0.1.
    # calm's prompts spread over 0.25 from easiest to hardest, which pairing removes: its interval is a point.
    tuned = spread({"calm": 0.5, "loud": 0.5})
    loud = {p: [r + (0.1 if i % 2 else -0.1) for r in rs] for i, (p, rs) in enumerate(tuned["loud"].items())}
    comparison = compare_evaluations([entrant("one"), entrant("two", {**tuned, "loud": loud})])
    calm, noisy, macro = comparison.pairs
    assert [pair.preference_group for pair in comparison.pairs] == ["calm", "loud", None]
    assert (calm.difference, noisy.difference, macro.difference) == pytest.approx((0.2, 0.0, 0.1), abs=1e-9)
    assert (calm.ci_low, calm.ci_high) == pytest.approx((0.2, 0.2), abs=1e-9)
    # Without a spread it is the sign test of six prompts, 2^-5, which for two groups is not enough.
    assert calm.p_adjusted == 2 * 2**-5
    assert [pair.verdict for pair in comparison.pairs] == ["can't tell", "can't tell", "ahead"]
    assert (calm.n, noisy.n, macro.n) == (6, 6, 12)
    assert {(pair.run, pair.reference) for pair in comparison.pairs} == {("two", "one")}
    assert [run.macro.mean for run in comparison.runs] == pytest.approx([0.4, 0.5])


def test_the_first_run_is_the_reference_of_all_others() -> None:
    better, worse = spread({"calm": 0.6, "loud": 0.8}), spread({"calm": 0.1, "loud": 0.3})
    comparison = compare_evaluations([entrant("one"), entrant("up", better), entrant("down", worse)])
    macro = {pair.run: pair for pair in comparison.pairs if pair.preference_group is None}
    assert comparison.reference == "one"
    assert {run: pair.verdict for run, pair in macro.items()} == {"up": "ahead", "down": "behind"}
    assert macro["down"].difference == pytest.approx(-0.2)


def test_a_run_is_no_different_from_itself() -> None:
    comparison = compare_evaluations([entrant("one"), entrant("one")])
    for pair in comparison.pairs:
        assert (pair.difference, pair.ci_low, pair.ci_high) == (0, 0, 0)
        assert pair.verdict == "no difference"
    assert comparison.runs[0].differs == {}


def test_a_run_is_no_different_from_its_resumed_twin() -> None:
    # Another directory and other versions, but bit for bit the same adapter and completions.
    twin = entrant("twin", versions={"pgrpo-cli": "0.2.0"}, recipe_hash="f" * 64)
    comparison = compare_evaluations([entrant("one"), twin])
    assert {pair.verdict for pair in comparison.pairs} == {"no difference"}
    assert {(pair.difference, pair.ci_low, pair.ci_high) for pair in comparison.pairs} == {(0, 0, 0)}


def test_runs_that_cannot_be_compared_have_an_exit_code_of_their_own() -> None:
    with pytest.raises(IncomparableError) as caught:
        compare_evaluations([entrant("one"), entrant("two", data_hash="e" * 64)])
    assert caught.value.exit_code == 3


def test_base_models_are_compared_by_their_files() -> None:
    one, other = entrant("one", model_files={"model.id": "a"}), entrant("two", model_files={"model.id": "b"})
    with pytest.raises(IncomparableError, match=r"model_files\.model\.id: 'b', there 'a'"):
        compare_evaluations([one, other])
    # An older evaluation does not say.
    assert compare_evaluations([one, entrant("older")]).reference == "one"


def test_prompts_of_only_one_run_are_left_out_and_groups_count_once() -> None:
    # calm: 4 of its 6 prompts have a partner, each 0.2 better; loud: no better. Macro (0.2 + 0) / 2.
    better = spread({"calm": 0.5, "loud": 0.5})
    fewer = {**better, "calm": {prompt: better["calm"][prompt] for prompt in list(better["calm"])[:4]}}
    comparison = compare_evaluations([entrant("one"), entrant("two", fewer)])
    assert [pair.n for pair in comparison.pairs] == [4, 6, 10]
    assert [pair.difference for pair in comparison.pairs] == pytest.approx([0.2, 0.0, 0.1])


def test_what_the_recipes_do_differently_is_listed() -> None:
    theirs = {"name": "b", "seed": 7, "advantage": {"estimator": "grpo"}, "log": {"project": "x"}}
    comparison = compare_evaluations([entrant("one"), entrant("two", recipe=theirs)])
    assert [run.differs for run in comparison.runs] == [
        {"advantage.estimator": "pgrpo"},
        {"advantage.estimator": "grpo"},
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data_hash": "e" * 64}, f"data_hash: '{'e' * 64}', there '{'d' * 64}'"),
        ({"model": {"id": "other"}}, "model.id: 'other', there 'random'"),
        ({"rewards": [{"type": "length"}]}, "rewards.0.type: 'length', there 'personas'"),
        (
            {"sampling": {"num_completions": 2, "max_completion_tokens": 16, "temperature": 0.7}},
            "sampling.temperature: 0.7, there 1.0",
        ),
        ({"max_prompts_per_group": 3}, "max_prompts_per_group: 3, there None"),
    ],
)
def test_what_cannot_be_compared_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(IncomparableError) as caught:
        compare_evaluations([entrant("one"), entrant("same"), entrant("two", **changes)])
    assert caught.value.message == f"two cannot be compared with one:\n  {message}"
    assert caught.value.remedy


def test_every_differing_field_is_named_at_once() -> None:
    with pytest.raises(IncomparableError) as caught:
        compare_evaluations(
            [entrant("one"), entrant("two", data_hash="e" * 64, model={"id": "random", "revision": "v2"})]
        )
    assert "data_hash" in caught.value.message
    assert "model.revision: 'v2', there None" in caught.value.message
    assert "model.id" not in caught.value.message


def test_other_seeds_and_recipes_can_be_compared() -> None:
    comparison = compare_evaluations(
        [entrant("one"), entrant("two", seed=8, recipe_hash="f" * 64, adapter_hash="c" * 64)]
    )
    assert {pair.verdict for pair in comparison.pairs} == {"no difference"}


def test_adapters_of_other_steps_are_noted() -> None:
    # With train.keep_best they may be of runs that trained equally long.
    comparison = compare_evaluations([entrant("one"), entrant("two", step=40)])
    assert comparison.notes == ["The adapter of two is that of step 40, that of one is that of step 24."]


def test_intervals_of_runs_have_the_confidence_of_the_comparison() -> None:
    first, second = entrant("one"), entrant("two", seed=9, confidence=0.5)
    comparison = compare_evaluations([first, second])
    # The same rewards: as they are in an evaluation of the run at 95 %.
    at_95 = entrant("two", seed=9).result.overall.macro.tuned
    assert second.result.overall.macro.tuned != at_95
    assert [run.macro for run in comparison.runs] == [first.result.overall.macro.tuned, at_95]


def test_users_are_resampled_where_prompts_have_them() -> None:
    # calm: users x and y with three prompts each, better by 0.1 and by 0.3: two users prove little.
    tuned = {
        "calm": {
            p: [r + (0.1 if i < 3 else 0.3) for r in rs] for i, (p, rs) in enumerate(FIRST["calm"].items())
        },
        "loud": FIRST["loud"],
    }
    users = {f"calm-{i}": "xy"[i // 3] for i in range(6)}
    comparison = compare_evaluations([entrant("one"), entrant("two", tuned, users=users)])
    calm, loud, macro = comparison.pairs
    assert [(pair.unit, pair.units) for pair in (calm, loud, macro)] == [
        ("user", 2),
        ("prompt", 6),
        ("user", 8),
    ]
    assert calm.difference == pytest.approx(0.2)
    assert calm.verdict == "can't tell"
    assert "users, each with all of its prompts" in grouping_sentence(comparison)
    known = compare_evaluations([entrant("one"), entrant("two", tuned)])
    assert known.pairs[0].verdict == "ahead"
    assert "over prompts" in grouping_sentence(known)


def test_a_single_run_is_refused() -> None:
    with pytest.raises(RunError, match="at least two runs, got 1"):
        compare_evaluations([entrant("one")])


def runs_of(tmp_path: Path, **recipes: Any) -> dict[str, RunDirectory]:
    """A run a recipe, by label."""
    return {label: make_run(tmp_path / label, recipe) for label, recipe in recipes.items()}


def target(run: RunDirectory) -> EvalTarget:
    return eval_target(run, run.recipe(), run.path)


@pytest.fixture
def evaluated(monkeypatch: pytest.MonkeyPatch) -> list[tuple[EvalTarget, list[EvalResult]]]:
    """Replaces the evaluation of runs; records what was to be evaluated, and the results to borrow from."""
    recorded: list[tuple[EvalTarget, list[EvalResult]]] = []

    def scripted(target: EvalTarget, *, others: Sequence[EvalResult], **_: Any) -> EvalResult:
        recorded.append((target, list(others)))
        return result_of(BASE, FIRST, **dict(target.header))

    monkeypatch.setattr("pgrpo_cli.eval.alignment.evaluate_target", scripted)
    return recorded


def test_kept_evaluations_are_taken_as_they_are(tmp_path: Path, evaluated: Any) -> None:
    runs = runs_of(tmp_path, one=recipe_of(), two=recipe_of(advantage__estimator="grpo"))
    for run in runs.values():
        found = target(run)
        write_result(result_of(BASE, FIRST, **dict(found.header)), found.path)
    entrants = entrants_of(runs)
    assert evaluated == []
    assert [entrant.label for entrant in entrants] == ["one", "two"]
    differs = {"advantage.estimator": "grpo", "loss.aggregation": "sequence_mean"}
    assert compare_evaluations(entrants).runs[1].differs == differs


def test_a_run_without_evaluation_gets_one_like_the_kept_one(tmp_path: Path, evaluated: Any) -> None:
    # `two` was evaluated with three completions; `one` has no evaluation and asks for four by itself.
    runs = runs_of(tmp_path, one=recipe_of(), two=recipe_of(advantage__estimator="grpo"))
    recipe = recipe_of(advantage__estimator="grpo", eval__num_completions=3)
    kept = eval_target(runs["two"], recipe, runs["two"].path)
    write_result(result_of(BASE, FIRST, **dict(kept.header)), kept.path)
    notes: list[str] = []
    entrants = entrants_of(runs, on_note=notes.append)
    ((what, others),) = evaluated
    assert (what.run, what.header.sampling["num_completions"]) == (runs["one"], 3)
    assert [other.run for other in others] == ["two"]
    assert [entrant.result.run for entrant in entrants] == ["one", "two"]
    assert notes == ["one keeps no evaluation of its newest adapter: evaluating it now"]
    assert len(compare_evaluations(entrants).pairs) == 3


def test_the_second_new_evaluation_may_borrow_from_the_first(tmp_path: Path, evaluated: Any) -> None:
    entrants_of(runs_of(tmp_path, one=recipe_of(), two=recipe_of(advantage__estimator="grpo")))
    assert [[other.run for other in others] for _, others in evaluated] == [[], ["one"]]


def test_runs_that_cannot_be_compared_are_not_evaluated_first(tmp_path: Path, evaluated: Any) -> None:
    runs = runs_of(tmp_path, one=recipe_of(), two=recipe_of(rewards=[{"type": "length", "max": 3}]))
    with pytest.raises(IncomparableError, match=r"two cannot be compared with one:\n  rewards\.0"):
        entrants_of(runs)
    assert evaluated == []


def test_an_unfinished_run_is_compared_with_a_warning(tmp_path: Path, evaluated: Any) -> None:
    runs = runs_of(tmp_path, one=recipe_of())
    runs["two"] = make_run(tmp_path / "two", recipe_of(), adapter=None)
    add_checkpoint(runs["two"], 8, "eight")
    notes: list[str] = []
    entrants = entrants_of(runs, on_note=notes.append)
    assert [entrant.result.step for entrant in entrants] == [200, 8]
    assert any("is not finished: step 8 of 200" in note for note in notes)


def compared_curves(tmp_path: Path, **theirs: Any) -> Comparison:
    """Two runs with held-out curves, evaluated with the same settings; the second one's recipe differs."""
    runs = runs_of(tmp_path, one=recipe_of(eval__every=8), two=recipe_of(eval__every=8, **theirs))
    section = runs["one"].recipe().eval
    for height, run in zip((0.2, 0.4), runs.values(), strict=True):
        found = eval_target(run, run.recipe().model_copy(update={"eval": section}), run.path)
        write_result(result_of(BASE, FIRST, **dict(found.header)), found.path)
        add_curve(run, {0: 0.1, 8: height, 16: height})
    return compare([run.path for run in runs.values()]).comparison


def test_held_out_curves_are_compared_if_they_were_measured_alike(tmp_path: Path) -> None:
    comparison = compared_curves(tmp_path, eval__confidence=0.9, seed=3)
    assert {line.source for line in comparison.learning} == {"held-out"}
    assert not any("How fast" in note for note in comparison.notes)


@pytest.mark.parametrize(
    "theirs", [{"eval__temperature": 0.5}, {"eval__num_completions": 2}, {"eval__max_prompts_per_group": 1}]
)
def test_held_out_curves_that_were_measured_otherwise_are_not_compared(tmp_path: Path, theirs: Any) -> None:
    comparison = compared_curves(tmp_path, **theirs)
    assert not any(line.source == "held-out" for line in comparison.learning)
    ((key, value),) = theirs.items()
    (note,) = [note for note in comparison.notes if "How fast" in note]
    assert f"{key.removeprefix('eval__')}: two {value}, one" in note


def test_flat_keys() -> None:
    assert flat_keys({"a": {"b": [1, {"c": 2}]}, "d": {}, "e": []}) == {
        "a.b.0": 1,
        "a.b.1.c": 2,
        "d": {},
        "e": [],
    }
