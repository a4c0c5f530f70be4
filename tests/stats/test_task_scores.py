"""Differences by task from results in lm-eval's form, counted by hand; and what is said about them."""

from __future__ import annotations

import math
from typing import Any

import numpy
import pytest

from pgrpo_cli.report.more_tables import tasks_table
from pgrpo_cli.report.sentences import tasks_sentence
from pgrpo_cli.stats.estimates import Resampler
from pgrpo_cli.stats.intervals import Bootstrap
from pgrpo_cli.stats.result_types import TaskScore, TaskScores
from pgrpo_cli.stats.task_scores import at_confidence, task_label, task_scores, task_verdict

RESAMPLER = Resampler(Bootstrap(samples=500, seed=3))


def found(**tasks: list[Any]) -> dict[str, Any]:
    """What lm-eval returns for tasks whose documents have these values of the metric `acc`."""
    return {
        "results": {
            task: {"alias": task, "sample_len": len(values), "acc,none": sum(values) / len(values)}
            for task, values in tasks.items()
        },
        "groups": {},
        "group_subtasks": {},
        "higher_is_better": {task: {"acc": True} for task in tasks},
        "n-shot": dict.fromkeys(tasks, 0),
        "versions": dict.fromkeys(tasks, 1.0),
        "n-samples": {task: {"effective": len(values)} for task, values in tasks.items()},
        "samples": {
            task: [{"doc_id": i, "filter": "none", "acc": value} for i, value in enumerate(values)]
            for task, values in tasks.items()
        },
    }


def grouped(found: dict[str, Any], score: float, **parts: list[str]) -> dict[str, Any]:
    """The same with groups of tasks, which have the score."""
    return {
        **found,
        "group_subtasks": parts,
        "groups": {group: {"acc,none": score} for group in parts},
        "higher_is_better": {**found["higher_is_better"], **{key: {"acc": True} for key in parts}},
    }


def by_name(scores: list[TaskScore]) -> dict[str, TaskScore]:
    return {score.task: score for score in scores}


def test_differences_are_paired_by_document() -> None:
    # The tuned model answers document 1 as well: 2/4 -> 3/4. Numbers of any kind count.
    base, tuned = found(a=[1.0, 0.0, True, 0]), found(a=[1.0, 1, numpy.bool_(True), numpy.float64(0)])
    (score,) = task_scores(base, tuned, RESAMPLER)
    assert (score.scores.base.mean, score.scores.tuned.mean) == (0.5, 0.75)
    assert score.scores.difference.mean == 0.25 and score.scores.difference.n == 4
    assert (score.metric, score.filter, score.version, score.num_fewshot) == ("acc", "none", "1.0", 0)


def test_the_interval_is_that_of_the_paired_difference() -> None:
    """Each document's own difficulty cancels: 40 documents of which 20 are hard for both, one is learnt."""
    base = [1.0] * 20 + [0.0] * 20
    tuned = [1.0] * 21 + [0.0] * 19
    (score,) = task_scores(found(a=base), found(a=tuned), RESAMPLER)
    # One difference of 1 in 40: standard error sqrt(39/40 * 1/40 / 39) = 0.025.
    width = score.scores.difference.ci_high - score.scores.difference.ci_low
    assert width < 4.5 * 0.025
    # Of either model by itself: sqrt(1/4 / 39) = 0.08.
    assert score.scores.base.ci_high - score.scores.base.ci_low > 2.5 * 0.08


def test_a_metric_that_is_no_mean_has_no_interval() -> None:
    base, tuned = found(a=[1.0, 0.0]), found(a=[1.0, 1.0])
    for result, perplexity in ((base, 8.0), (tuned, 6.5)):
        result["results"]["a"] = {"perplexity,none": perplexity, "perplexity_stderr,none": 0.1}
        for sample in result["samples"]["a"]:
            sample["perplexity"] = (-3.2, 4)
    (score,) = task_scores(base, tuned, RESAMPLER)
    assert (score.scores.base.mean, score.scores.tuned.mean) == (8.0, 6.5)
    assert score.scores.difference.mean == -1.5 and score.scores.difference.n == 2
    assert math.isnan(score.scores.difference.ci_low)
    assert score.higher_is_better is None and task_verdict(score) == "can't tell"


def test_a_number_that_another_rule_makes_of_documents_has_no_interval() -> None:
    """exp(-mean) over documents' log-likelihoods: the mean over documents is not the score."""
    base, tuned = found(a=[1.0, 0.0]), found(a=[1.0, 1.0])
    base["results"]["a"]["acc,none"] = math.exp(-0.5)
    (score,) = task_scores(base, tuned, RESAMPLER)
    assert score.scores.base.mean == math.exp(-0.5)
    assert math.isnan(score.scores.base.ci_low) and math.isnan(score.scores.difference.ci_low)


def test_a_group_that_weighs_by_size_counts_every_document_once() -> None:
    base = grouped(found(a=[0.0] * 4, b=[1.0] * 6), 6 / 10, g=["a", "b"])
    tuned = grouped(found(a=[0.0, 1.0, 1.0, 1.0], b=[1.0] * 6), 9 / 10, g=["a", "b"])
    scores = by_name(task_scores(base, tuned, RESAMPLER))
    # 6 of 10 -> 9 of 10; the mean of the tasks' means would be 1/2 -> 7/8.
    assert scores["g"].scores.difference.mean == pytest.approx(0.3)
    assert scores["g"].scores.difference.n == 10
    assert not math.isnan(scores["g"].scores.difference.ci_low)
    assert (scores["g"].part_of, scores["a"].part_of, scores["b"].part_of) == (None, "g", "g")


def test_a_group_that_weighs_its_tasks_alike_keeps_its_number_without_interval() -> None:
    base = grouped(found(a=[0.0, 0.0, 0.0], b=[1.0]), 0.5, g=["a", "b"])
    tuned = grouped(found(a=[0.0, 1.0, 1.0], b=[1.0]), 5 / 6, g=["a", "b"])
    score = by_name(task_scores(base, tuned, RESAMPLER))["g"]
    assert score.scores.difference.mean == pytest.approx(1 / 3)
    assert score.scores.difference.n == 4 and math.isnan(score.scores.difference.ci_low)


def test_parts_of_a_group_without_a_score_stand_by_themselves() -> None:
    result = grouped(found(a=[1.0], b=[0.0]), 0.5, outer=["inner"], inner=["a", "b"])
    del result["groups"]["inner"]["acc,none"]
    scores = by_name(task_scores(result, result, RESAMPLER))
    assert sorted(scores) == ["a", "b", "outer"]
    assert scores["a"].part_of == "outer"
    del result["groups"]["outer"]["acc,none"]
    assert by_name(task_scores(result, result, RESAMPLER))["a"].part_of is None


def test_what_a_group_does_not_sum_up_is_no_part_of_its_score() -> None:
    result = grouped(found(a=[1.0], b=[0.0]), 1.0, g=["a", "b"])
    result["results"]["b"] = {"exact_match,none": 0.0}
    scores = by_name(task_scores(result, result, RESAMPLER))
    assert (scores["a"].part_of, scores["b"].part_of) == ("g", None)


def test_filters_are_scores_of_their_own() -> None:
    base = found(a=[1.0, 0.0])
    base["results"]["a"] = {"acc,strict": 0.5, "acc,flexible": 1.0}
    samples = [{"doc_id": i, "filter": "flexible", "acc": 1.0} for i in range(6)]
    base["samples"]["a"] = [{**s, "filter": "strict"} for s in base["samples"]["a"]] + samples
    scores = task_scores(base, base, RESAMPLER)
    assert [task_label(score) for score in scores] == ["a acc (strict)", "a acc (flexible)"]
    assert {score.filter: score.scores.base.mean for score in scores} == {"strict": 0.5, "flexible": 1.0}
    # Both are means over their own documents, which is how they have intervals.
    assert not any(math.isnan(score.scores.base.ci_low) for score in scores)


@pytest.mark.parametrize(
    ("higher", "change", "says"),
    [(True, 1.0, "ahead"), (True, -1.0, "behind"), (False, 1.0, "behind"), (False, -1.0, "ahead"),
     (None, 1.0, "can't tell"), (True, 0.0, "can't tell")],
)  # fmt: skip
def test_verdicts_know_which_way_is_better(higher: bool | None, change: float, says: str) -> None:
    # Six documents: five that all change alike may do so by chance.
    values = [0.0, 0.5, 1.0, 0.25, 0.5, 0.0]
    base, tuned = found(a=values), found(a=[value + change for value in values])
    base["higher_is_better"] = {"a": {"acc": higher}}
    (score,) = task_scores(base, tuned, RESAMPLER)
    assert task_verdict(score) == says


def test_the_table_and_the_sentence_leave_out_parts() -> None:
    base = grouped(found(a=[0.0] * 6, b=[1.0] * 6), 0.5, g=["a", "b"])
    tuned = grouped(found(a=[1.0] * 6, b=[1.0] * 6), 1.0, g=["a", "b"])
    scores = task_scores(base, tuned, RESAMPLER)
    told = TaskScores(settings={}, lm_eval_version="0.4", files_hash=None, scores=scores)
    assert [[cell.text for cell in row] for row in tasks_table(told).rows] == [
        ["g acc", "0.500", "1.000", "+0.500", "ahead", "higher", "12"]
    ]
    assert tasks_sentence(told) == "General tasks, the tuned model against the base: ahead 1 (g acc)."


def test_another_coverage_stretches_intervals_by_hand() -> None:
    made = task_scores(found(a=[0.0, 1.0, 1.0, 0.0]), found(a=[1.0, 1.0, 1.0, 0.0]), RESAMPLER)
    (score,) = at_confidence(made, 0.95, 0.9)
    before, now = made[0].scores.difference, score.scores.difference
    # The normal quantiles are 1.644854 and 1.959964.
    assert now.mean == before.mean == 0.25
    assert now.ci_high - now.mean == pytest.approx((before.ci_high - before.mean) * 1.644854 / 1.959964)
    assert at_confidence(made, 0.95, 0.95) == made
