"""From what lm-eval returns for both models to paired differences by task. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from numbers import Real
from typing import Any

from .estimates import PromptValues, Resampler, shared_prompts, verdict
from .result_types import Contrast, Estimate, TaskScore, Verdict

Found = Mapping[str, Any]
"""What `lm_eval.simple_evaluate` returns, with samples."""


def task_scores(base: Found, tuned: Found, resampler: Resampler) -> list[TaskScore]:
    """Every metric of every task and group of tasks, groups before their parts.

    Intervals resample documents, by task. They need a metric that is a mean over documents: where it is not
    (a perplexity of a corpus, a correlation), the numbers of both models stand without.
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
    """How a score is named in tables and sentences."""
    return f"{score.task} {score.metric}" + ("" if score.filter == "none" else f" ({score.filter})")


def task_verdict(score: TaskScore) -> Verdict:
    """Which model does better; a metric of which no direction is known tells nothing."""
    found = score.scores.difference
    if score.higher_is_better is None or math.isnan(found.ci_low):
        return "can't tell"
    if not score.higher_is_better:
        turned = {"mean": -found.mean, "ci_low": -found.ci_high, "ci_high": -found.ci_low}
        found = found.model_copy(update=turned)
    return verdict(found)


def _metrics(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Metrics of a task and the filters before them: lm-eval's keys are `metric,filter`."""
    for key, value in row.items():
        metric, comma, kind = key.partition(",")
        if comma and not metric.endswith("_stderr") and isinstance(value, Real):
            yield metric, kind


def _parent_with(key: str, name: str, parents: Mapping[str, str], found: Found) -> str | None:
    """The nearest group around a task that has that number too."""
    parent = parents.get(name)
    while parent is not None and key not in found.get("groups", {}).get(parent, {}):
        parent = parents.get(parent)
    return parent


def _contrast(name: str, metric: str, kind: str, base: Found, tuned: Found, resampler: Resampler) -> Contrast:
    key = f"{metric},{kind}"
    told = [float({**found["results"], **found.get("groups", {})}[name][key]) for found in (base, tuned)]
    values = [_values(name, metric, kind, found) for found in (base, tuned)]
    if all(abs(_mean(found) - score) <= 1e-9 for found, score in zip(values, told, strict=True)):
        first, second = shared_prompts(*values)
        counts = {task: float(len(documents)) for task, documents in first.items()}
        return resampler.contrast(first, second, counts)
    documents = sum(map(len, values[0].values())) or _documents(name, base)
    alone = [_alone(score, documents) for score in (*told, told[1] - told[0])]
    return Contrast(base=alone[0], tuned=alone[1], difference=alone[2])


def _alone(score: float, documents: int) -> Estimate:
    return Estimate(mean=score, ci_low=math.nan, ci_high=math.nan, n=documents)


def _values(name: str, metric: str, kind: str, found: Found) -> PromptValues:
    """The metric of each document, by task and document; nothing where it is no number."""
    values: PromptValues = {}
    for task in _leaves(name, found):
        for sample in found["samples"].get(task, []):
            value = sample.get(metric)
            if sample["filter"] == kind and isinstance(value, Real):
                values.setdefault(task, {})[f"{task}/{sample['doc_id']}"] = float(value)
    return values


def _leaves(name: str, found: Found) -> list[str]:
    parts = found["group_subtasks"].get(name, [])
    return [leaf for part in parts for leaf in _leaves(part, found)] or [name]


def _documents(name: str, found: Found) -> int:
    return sum(found["n-samples"][task]["effective"] for task in _leaves(name, found))


def _mean(values: PromptValues) -> float:
    """Over documents, each counted once; NaN without any, which equals nothing."""
    found = [value for documents in values.values() for value in documents.values()]
    return math.fsum(found) / len(found) if found else math.nan
