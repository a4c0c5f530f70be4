"""The findings of an evaluation and of a comparison in plain sentences, for the terminal and the page."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pgrpo_cli.stats.comparison import Comparison, Pair
from pgrpo_cli.stats.estimates import ROUNDING, verdict, win_verdict
from pgrpo_cli.stats.result_types import Estimate, EvalResult, Judged, Matrix, TaskScores, Verdict
from pgrpo_cli.stats.task_scores import task_label, task_verdict

from .tables import interval, number, percent, percents

_OUTCOMES: tuple[Verdict, ...] = ("ahead", "behind", "no difference", "can't tell")
_MOST_NAMES = 8


def eval_sentence(result: EvalResult) -> str:
    """What training did to the macro mean, and to how many preference groups."""
    macro = result.overall.macro
    outcomes = {group: verdict(contrast.difference) for group, contrast in result.groups.items()}
    counted = sum(contrast.difference.n > 0 for contrast in result.groups.values())
    change = f"{number(macro.difference.mean, signed=True)} {interval(macro.difference)}".rstrip()
    return (
        f"Mean reward over {_groups(counted)}, each counted once: {number(macro.base.mean)} "
        f"before training, {number(macro.tuned.mean)} after ({change}: {verdict(macro.difference)}). "
        f"{_in_deviations(result.macro_detail.effect)}{_by_outcome(outcomes)}"
    )


def matrix_sentence(matrix: Matrix) -> str:
    """Whether answers suit those for whom they are, and what to look at where they do not."""
    tuned = matrix.margin.tuned
    margin = f"{number(tuned.mean, signed=True)} {interval(tuned)}".rstrip()
    if tuned.ci_low > 0:
        return f"The tuned model serves preference groups differently: own reward less others' is {margin}."
    if math.isnan(tuned.ci_low):
        return (
            "Whether the tuned model serves preference groups differently cannot be told from so few "
            f"held-out prompts: own reward less others' is {margin}."
        )
    return (
        "The tuned model is not shown to serve preference groups differently: own reward less others' is "
        f"{margin}. Can the model tell who asks? `pgrpo prepare` says what the prompts tell it, and "
        "data.conditioning adds to them."
    )


def judged_sentence(judged: Judged) -> str:
    """Which model a judge prefers, and how many of its answers could not be used."""
    macro, name = judged.macro, f"The judge {judged.judge['model']}"
    says = {
        "ahead": "prefers the tuned model",
        "behind": "prefers the base model",
        "no difference": "finds no difference between the models",
        "can't tell": "does not tell the models apart",
    }[win_verdict(macro.win_rate)]
    rate = f"{percent(macro.win_rate.mean)} {percents(macro.win_rate)}".rstrip()
    counted = sum(found.win_rate.n > 0 for found in judged.groups.values())
    text = f"{name} {says}: win rate over {_groups(counted)} {rate}."
    if macro.contradictions:
        text += f" In {macro.contradictions} of {macro.pairs} pairs the order decided, which makes them ties."
    if macro.failed:
        text += f" In {macro.failed} of {macro.pairs} pairs it did not say, which leaves them out."
    return text


def tasks_sentence(found: TaskScores) -> str:
    """On which general tasks training made the model worse or better."""
    shown = [score for score in found.scores if score.part_of is None]
    outcomes = {task_label(score): task_verdict(score) for score in shown}
    return f"General tasks, the tuned model against the base: {_counted(outcomes)}."


def comparison_sentence(comparison: Comparison, run: str) -> str:
    """How `run` does against the reference over preference groups, and in which it is ahead or behind."""
    pairs = [pair for pair in comparison.pairs if pair.run == run]
    macro = next(pair for pair in pairs if pair.preference_group is None)
    outcomes = {pair.preference_group: pair.verdict for pair in pairs if pair.preference_group is not None}
    left_out = [pair.preference_group or "" for pair in pairs if pair.n == 0 and pair is not macro]
    change = f"{number(macro.difference, signed=True)} {interval(macro)}".rstrip()
    says = {
        "ahead": f"{run} is ahead of {comparison.reference}",
        "behind": f"{run} is behind {comparison.reference}",
        "no difference": f"{run} is no different from {comparison.reference}",
        "can't tell": f"{run} and {comparison.reference} can't be told apart",
    }[macro.verdict]
    settles = macro.explanation.removeprefix("can't tell ")
    change += f"; {settles}" if macro.verdict == "can't tell" else ""
    standardised = next((pair for pair in comparison.standardised if pair.run == run), None)
    return (
        f"{says} in mean reward over {_groups(len(outcomes) - len(left_out))} ({change}). "
        f"{_in_deviations(standardised)}{_variance(macro)}{_by_outcome(outcomes)}{_without_prompts(left_out)}"
    )


def grouping_sentence(comparison: Comparison) -> str:
    """How the lines of a comparison were made beyond `method_sentence`; which runs are one method."""
    verdicts = "Verdicts on preference groups hold after Holm's correction for their number."
    by_user = any(pair.unit == "user" for pair in comparison.pairs)
    units = "users, each with all of its prompts" if by_user else "prompts"
    if not comparison.by:
        return f"Intervals are over {units}. {verdicts}"
    methods = "; ".join(
        f"{method.label}: {', '.join(method.runs)} (seed{'s' if len(method.seeds) > 1 else ''} "
        f"{', '.join(map(str, method.seeds))})"
        for method in comparison.methods
    )
    return f"Intervals of methods are over seeds and {units}. {verdicts} Methods: {methods}."


def method_sentence(result: EvalResult) -> str:
    """How the numbers were computed."""
    sampling = result.sampling
    return (
        f"{len(result.prompts)} held-out prompts, {sampling['num_completions']} completions of each model "
        f"for each, at temperature {sampling['temperature']:g}. In brackets: {result.confidence * 100:g} % "
        f"bootstrap intervals over {result.unit}s ({result.bootstrap_samples} resamples, "
        f"seed {result.seed}); differences are paired by prompt.{_on_length_0(result)}"
    )


def _on_length_0(result: EvalResult) -> str:
    """What an interval of length 0 means, where there is one. Equal completions differ by 0 for certain."""
    shown: list[Estimate] = []
    for contrast in (result.overall.macro, *result.groups.values()):
        certain = verdict(contrast.difference) == "no difference"
        shown += [contrast.base, contrast.tuned] + ([] if certain else [contrast.difference])
    if not any(estimate.ci_high - estimate.ci_low <= ROUNDING for estimate in shown):
        return ""
    return " An interval of length 0 says only that all values were equal; other prompts may have others."


def chance_sentence(confidence: float, lines: int) -> str:
    """A caution for readers of many intervals: some exclude 0 by chance."""
    expected = (1 - confidence) * lines
    return (
        f"Each interval misses the truth {(1 - confidence) * 100:.3g} % of the time by itself (more often if "
        f"values are few or rarely differ): of {lines} preference groups without any difference, about "
        f"{expected:.2g} would look like one."
    )


def _groups(count: int) -> str:
    return "1 preference group" if count == 1 else f"{count} preference groups"


def _in_deviations(difference: Estimate | Pair | None) -> str:
    """The difference where each preference group's rewards count in their own spread; empty if unknown."""
    mean = math.nan if difference is None else (
        difference.mean if isinstance(difference, Estimate) else difference.difference
    )  # fmt: skip
    if difference is None or math.isnan(mean):
        return ""
    says = verdict(difference) if isinstance(difference, Estimate) else difference.verdict
    return (
        "In standard deviations of each preference group's rewards before training: "
        f"{number(mean, signed=True)} {interval(difference)}".rstrip()
        + f" ({says}). "
    )


def _variance(pair: Pair) -> str:
    """What makes the difference uncertain; empty with one seed per method."""
    if pair.variance is None:
        return ""
    seeds, units, rest = (percent(share) for share in pair.variance.model_dump().values())
    return (
        f"Of the variance of this difference, {seeds} comes from seeds, {units} from {pair.unit}s and {rest} "
        "from what both have together and from sampling. "
    )


def _without_prompts(groups: Sequence[str]) -> str:
    if not groups:
        return ""
    named = ", ".join(groups) if len(groups) <= _MOST_NAMES else _groups(len(groups))
    return f" Without a prompt in common, so not in the mean: {named}."


def _by_outcome(outcomes: dict[str, Verdict]) -> str:
    return f"By preference group: {_counted(outcomes)}."


def _counted(outcomes: dict[str, Verdict]) -> str:
    """How many have each outcome, and their names if they are few."""
    counts = []
    for outcome in _OUTCOMES:
        names = [name for name, verdict in outcomes.items() if verdict == outcome]
        if names:
            listed = f" ({', '.join(names)})" if len(names) <= _MOST_NAMES else ""
            counts.append(f"{outcome} {len(names)}{listed}")
    return ", ".join(counts)


def learning_sentence(comparison: Comparison) -> str:
    """Which rewards the curves show, and what the numbers of the table mean."""
    source = comparison.learning[0].source if comparison.learning else "training"
    basis = (
        "Curves are of held-out prompts, measured during training."
        if source == "held-out"
        else "Curves are of training rewards, smoothed, not of held-out prompts: how fast, not how well."
    )
    verdicts = (
        "made as those above"
        if source == "held-out"
        else "over seeds alone, each by itself without a correction for the number of preference groups"
    )
    return (
        f"{basis} Mean height is the area under the curve over the steps that all runs have, divided by "
        f"their number; verdicts on it are {verdicts}. Steps and seconds are those of training until "
        "the curve is at the reward named, by default the lowest of the methods' last values; with several "
        "seeds the mean, from the smallest to the largest."
    )
