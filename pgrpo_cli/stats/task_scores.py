"""From the results of lm-eval for both models to paired differences by task."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from numbers import Real
from statistics import NormalDist
from typing import Any

from .estimates import PromptValues, Resampler, shared_prompts, verdict
from .result_types import Contrast, Estimate, TaskScore, Verdict

TaskResults = Mapping[str, Any]
"""What `lm_eval.simple_evaluate` returns, with samples."""


def task_scores(base: TaskResults, tuned: TaskResults, resampler: Resampler) -> list[TaskScore]:
    """All metrics of all tasks and groups of tasks; a group comes before its tasks.

    Intervals resample the documents of each task. This needs a metric that is a mean over documents. Other
    metrics (the perplexity of a corpus, a correlation) have no intervals.
    """
    names = list(dict.fromkeys([*base.get("groups", {}), *base["results"]]))
    parents = {part: group for group, parts in base["group_subtasks"].items() for part in parts}
    scores = []
    for name in names:
        row = {**base["results"], **base.get("groups", {})}[name]
        for metric, kind in _metrics(row):
            scores.append(
                TaskScore(
                    task=name,
                    metric=metric,
                    filter=kind,
                    part_of=_parent_with(f"{metric},{kind}", name, parents, base),
                    higher_is_better=base["higher_is_better"].get(name, {}).get(metric),
                    num_fewshot=base["n-shot"].get(name),
                    version=None if base["versions"].get(name) is None else str(base["versions"][name]),
                    scores=_contrast(name, metric, kind, base, tuned, resampler),
                )
            )
    return scores


def task_label(score: TaskScore) -> str:
    """The name of a score in tables and sentences."""
    return f"{score.task} {score.metric}" + ("" if score.filter == "none" else f" ({score.filter})")


def task_verdict(score: TaskScore) -> Verdict:
    """Which model is better. There is no verdict if it is unknown whether higher values are better."""
    difference = score.scores.difference
    if score.higher_is_better is None or math.isnan(difference.ci_low):
        return "can't tell"
    if not score.higher_is_better:
        negated = {"mean": -difference.mean, "ci_low": -difference.ci_high, "ci_high": -difference.ci_low}
        difference = difference.model_copy(update=negated)
    return verdict(difference)


def at_confidence(scores: Sequence[TaskScore], before: float, now: float) -> list[TaskScore]:
    """The scores with intervals of another coverage. The documents are not kept, so the distance of each end
    from the mean grows as that of a normal distribution does.
    """
    z_before, z_now = (NormalDist().inv_cdf((1 + level) / 2) for level in (before, now))

    def stretched(one: Estimate) -> Estimate:
        low, high = (one.mean + (end - one.mean) * z_now / z_before for end in (one.ci_low, one.ci_high))
        return one.model_copy(update={"ci_low": low, "ci_high": high})

    if before == now:
        return list(scores)
    return [
        score.model_copy(update={"scores": Contrast(**{name: stretched(one) for name, one in score.scores})})
        for score in scores
    ]


def _metrics(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The metrics of a task with their filters. The keys of lm-eval are `metric,filter`."""
    for key, value in row.items():
        metric, comma, kind = key.partition(",")
        if comma and not metric.endswith("_stderr") and isinstance(value, Real):
            yield metric, kind


def _parent_with(key: str, name: str, parents: Mapping[str, str], results: TaskResults) -> str | None:
    """The innermost group around a task that has this metric too."""
    parent = parents.get(name)
    while parent is not None and key not in results.get("groups", {}).get(parent, {}):
        parent = parents.get(parent)
    return parent


def _contrast(
    name: str, metric: str, kind: str, base: TaskResults, tuned: TaskResults, resampler: Resampler
) -> Contrast:
    key = f"{metric},{kind}"
    reported = [float({**run["results"], **run.get("groups", {})}[name][key]) for run in (base, tuned)]
    values = [_values(name, metric, kind, run) for run in (base, tuned)]
    # The metric is a mean over documents if that mean equals the reported number.
    if all(abs(_mean(own) - score) <= 1e-9 for own, score in zip(values, reported, strict=True)):
        first, second = shared_prompts(*values)
        counts = {task: float(len(documents)) for task, documents in first.items()}
        return resampler.contrast(first, second, counts)
    documents = sum(map(len, values[0].values())) or _documents(name, base)
    alone = [_alone(score, documents) for score in (*reported, reported[1] - reported[0])]
    return Contrast(base=alone[0], tuned=alone[1], difference=alone[2])


def _alone(score: float, documents: int) -> Estimate:
    return Estimate(mean=score, ci_low=math.nan, ci_high=math.nan, n=documents)


def _values(name: str, metric: str, kind: str, results: TaskResults) -> PromptValues:
    """The metric of each document, by task and document. Values that are not numbers are left out."""
    values: PromptValues = {}
    for task in _leaves(name, results):
        for sample in results["samples"].get(task, []):
            value = sample.get(metric)
            if sample["filter"] == kind and isinstance(value, Real):
                values.setdefault(task, {})[f"{task}/{sample['doc_id']}"] = float(value)
    return values


def _leaves(name: str, results: TaskResults) -> list[str]:
    parts = results["group_subtasks"].get(name, [])
    return [leaf for part in parts for leaf in _leaves(part, results)] or [name]


def _documents(name: str, results: TaskResults) -> int:
    return sum(results["n-samples"][task]["effective"] for task in _leaves(name, results))


def _mean(values: PromptValues) -> float:
    """The mean over all documents; NaN if there are none, which is unequal to every number."""
    numbers = [value for documents in values.values() for value in documents.values()]
    return math.fsum(numbers) / len(numbers) if numbers else math.nan
