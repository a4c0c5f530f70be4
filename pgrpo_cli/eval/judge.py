"""`eval.judge` in `pgrpo eval`: completions that are sampled already, compared in pairs by a language model.

It comes after the evaluation is on disk, so that a judge that fails costs no completion: the same command
goes on with the judge alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from pgrpo_cli.data.prepared import load_prepared
from pgrpo_cli.model.rollouts import completion_of
from pgrpo_cli.rewards.base import BuildContext, Completion
from pgrpo_cli.rewards.judge.pairs import PairwiseJudge, build_pairwise_judge
from pgrpo_cli.rewards.reward_sum import usage_sentences
from pgrpo_cli.state.results import write_result
from pgrpo_cli.stats.estimates import Resampler
from pgrpo_cli.stats.intervals import Bootstrap
from pgrpo_cli.stats.judged import judged_of
from pgrpo_cli.stats.result_types import EvalResult, EvalRow, JudgedPair

from .sampling import held_out
from .targets import EvalTarget, has_judged

JudgeProgress = Callable[[int, int], None]
"""Called with the pairs done and the number of pairs."""


def judge_to_ask(
    target: EvalTarget, kept: EvalResult | None, allowed_hosts: Collection[str] = ()
) -> PairwiseJudge | None:
    """The judge of the target's recipe; None where there is none, or `kept` holds what it said.

    Raises RecipeError unless its host is allowed and its key is there, RewardError where the file of its
    answers cannot be used.
    """
    section = target.recipe.eval.judge
    if section is None or has_judged(target.recipe, kept):
        return None
    hosts = frozenset(host.lower() for host in allowed_hosts)
    return build_pairwise_judge(
        section, BuildContext(target.recipe_dir, False, run_dir=target.run.path, allowed_hosts=hosts)
    )


def judge_target(
    target: EvalTarget,
    result: EvalResult,
    judge: PairwiseJudge,
    *,
    progress: JudgeProgress = lambda done, total: None,
    on_note: Callable[[str], None] = lambda text: None,
) -> EvalResult:
    """The evaluation of the target with what the judge says, kept in its run.

    `on_note` takes sentences for the user. Raises RewardError where the judge has failed too often.
    """
    section = target.recipe.eval.judge
    assert section is not None
    pairs = _pairs(target, result, section.pairs)
    progress(0, len(pairs))
    try:
        shares = judge.compare(
            [(base, tuned) for _, base, tuned in pairs], lambda done: progress(done, len(pairs))
        )
    finally:
        for sentence in [*usage_sentences({section.label: judge.usage()}), *judge.complaints()]:
            on_note(sentence)
    judged = [
        JudgedPair(
            prompt_id=row.prompt_id,
            preference_group=row.preference_group,
            completion_index=row.completion_index,
            shown_first=first,
            shown_second=second,
        )
        for (row, *_), (first, second) in zip(pairs, shares, strict=True)
    ]
    bootstrap = Bootstrap(result.bootstrap_samples, result.confidence, result.seed)
    found = judged_of(judged, section.model_dump(mode="json"), Resampler(bootstrap, result.users))
    # Completions that were sampled before the judge was named stand in a result of the recipe without it.
    header = {"recipe": target.header.recipe, "recipe_hash": target.header.recipe_hash}
    result = result.model_copy(update={**header, "judged": found})
    write_result(result, target.path)
    return result


def _pairs(target: EvalTarget, result: EvalResult, most: int) -> list[tuple[EvalRow, Completion, Completion]]:
    """The first `most` completions of both models to each prompt, with the tuned one's row."""
    prompts = held_out(load_prepared(target.run.path, "eval"), target.header.max_prompts_per_group)
    rows = {(row.which, row.prompt_id, row.completion_index): row for row in result.rows}
    pairs = []
    for prompt in prompts:
        for index in range(most):
            base, tuned = (
                completion_of(prompt, rows[which, prompt.prompt_id, index].text)
                for which in ("base", "tuned")
            )
            pairs.append((rows["tuned", prompt.prompt_id, index], base, tuned))
    return pairs
