"""How much of a gradient is signal: each estimator on the same completions of a language model at rest.

    pgrpo prepare benchmarks/four_groups/recipe.yaml --run-dir runs/noise --set seed=100
    python benchmarks/gradient_noise.py runs/noise                # the base model
    python benchmarks/gradient_noise.py RUN --step 20             # the model after step 20 of a run

Efficiency is the squared signal-to-noise ratio of the gradient per completion. docs/algorithm.md derives it
from the rewards alone. Here it is measured: the gradient of the log-probability of every completion is
computed by itself, and each estimator weighs the same ones by its advantages, in generation groups of 2, 4, 8
and 16. What counts are ratios to P-GRPO: how many completions of P-GRPO are worth one of another estimator's.
This takes minutes; trained runs differ by luck, and many of them are needed to see the same. The reward
history is that of all completions: it is neither short nor late.

Axes: M prompts, C completions of a prompt, N = M·C, J generation groups of G completions of a prompt, D
dimensions of a sketch.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from rich.console import Console

from benchmarks.markdown import renew, table
from pgrpo_cli.algo.advantages import compute_advantages
from pgrpo_cli.algo.estimators import resolve_estimator
from pgrpo_cli.algo.history import RewardHistory
from pgrpo_cli.cli.libraries import prepare_libraries
from pgrpo_cli.data.records import PreparedPrompt
from pgrpo_cli.diagnosis.efficiency import Components, mean_efficiency

ESTIMATORS = ("pgrpo", "grpo", "pgrpo_adaptive")
GENERATIONS = (2, 4, 8, 16)
CUTS = 8
"""Ways to cut a prompt's completions into generation groups, drawn at random; their mean is measured."""
DIMENSIONS = 1 << 14
"""Of the sketch: the product of two gradients is then off by their lengths' product over 128, at random."""


@dataclass(frozen=True)
class Sample:
    """Completions of one policy: their preference groups and rewards, and the sketch of each gradient."""

    groups_N: list[str]
    rewards_N: list[float]
    gradients_N_D: torch.Tensor
    per_prompt: int


@dataclass(frozen=True)
class Signal:
    """What a gradient estimate from one generation group consists of, over all prompts and without each one.

    `signal`: the squared length of the expected gradient. `noise`: the variance of the estimate of one
    generation group, all coordinates together. `ratios_M`: signal over noise per completion without a prompt.
    """

    signal: float
    noise: float
    ratio: float
    ratios_M: torch.Tensor


def signal_of(estimates_M_J_D: torch.Tensor, num_generations: int) -> Signal:
    """The signal and the noise of estimates, J of each prompt.

    The mean product of different prompts' estimates is the squared length of the expected gradient; that of
    the mean estimate would be larger by its noise.
    """
    M = len(estimates_M_J_D)
    means_M_D = estimates_M_J_D.mean(1)
    total_D = means_M_D.sum(0)
    own_M = means_M_D.square().sum(1)
    squares_M = estimates_M_J_D.square().sum(2).mean(1)
    whole = total_D.square().sum()

    def of(count: int, products: Any, squares: Any) -> tuple[Any, Any]:
        signal = products / (count * (count - 1))
        return signal, squares / count - signal

    signal, noise = of(M, whole - own_M.sum(), squares_M.sum())
    without_M = whole - 2 * means_M_D @ total_D + own_M - (own_M.sum() - own_M)
    signal_M, noise_M = of(M - 1, without_M, squares_M.sum() - squares_M)
    ratios_M = signal_M / (num_generations * noise_M)
    return Signal(signal.item(), noise.item(), (signal / (num_generations * noise)).item(), ratios_M)


def measured(sample: Sample, estimator: str, num_generations: int, history: RewardHistory) -> Signal:
    """The signal of an estimator whose completions of a prompt are cut into generation groups."""
    C, G = sample.per_prompt, num_generations
    rewards_M_C = torch.tensor(sample.rewards_N, dtype=torch.float64).view(-1, C)
    gradients_M_C_D = sample.gradients_N_D.view(len(rewards_M_C), C, -1)
    generator = torch.Generator().manual_seed(0)
    estimates = []
    for _ in range(CUTS if G < C else 1):
        order_C = torch.randperm(C, generator=generator)
        advantages_N = compute_advantages(
            rewards_M_C[:, order_C].flatten().tolist(),
            sample.groups_N,
            num_generations=G,
            estimator=estimator,
            history=history,
        ).advantages_N
        weighted_M_C_D = advantages_N.view(-1, C, 1) * gradients_M_C_D[:, order_C]
        estimates.append(weighted_M_C_D.unflatten(1, (C // G, G)).mean(2))
    return signal_of(torch.cat(estimates, 1), G)


def history_of(sample: Sample) -> RewardHistory:
    """The history of all rewards of the sample."""
    history = RewardHistory()
    history.update(sample.rewards_N, sample.groups_N, num_generations=sample.per_prompt, step=1)
    return history


def predicted(sample: Sample, estimator: str, num_generations: int, history: RewardHistory) -> float:
    """The efficiency that the rewards alone predict, the mean over preference groups."""
    components = []
    for group, stats in history.stats(sorted(set(sample.groups_N))).items():
        rewards = [r for r, g in zip(sample.rewards_N, sample.groups_N, strict=True) if g == group]
        values = sorted(set(rewards))
        rate = fmean(r == values[-1] for r in rewards) if len(values) == 2 else None
        if stats.within_variance > 0:
            components.append(
                Components(stats.prompts, stats.within_variance, stats.between_variance, rate=rate)
            )
    return mean_efficiency(resolve_estimator(estimator), components, num_generations)


def against(ours: Signal, theirs: Signal) -> tuple[float, float, float]:
    """The ratio of two efficiencies with its interval of 95 %, by the jackknife over prompts; NaN where one
    of them is no longer positive without a prompt.
    """
    M = len(ours.ratios_M)
    logs_M = (ours.ratios_M / theirs.ratios_M).log()
    if not ours.ratio / theirs.ratio > 0 or not bool(logs_M.isfinite().all()):
        return ours.ratio / theirs.ratio, math.nan, math.nan
    deviation = math.sqrt((M - 1) / M * (logs_M - logs_M.mean()).square().sum().item())
    ratio = ours.ratio / theirs.ratio
    return ratio, ratio * math.exp(-1.96 * deviation), ratio * math.exp(1.96 * deviation)


def tables(sample: Sample) -> str:
    """All results as Markdown."""
    history, rows = history_of(sample), []
    for G in (g for g in GENERATIONS if g <= sample.per_prompt):
        signals = {name: measured(sample, name, G, history) for name in ESTIMATORS}
        expected = {name: predicted(sample, name, G, history) for name in ESTIMATORS}
        cells = []
        for name in ESTIMATORS[1:]:
            ratio, low, high = against(signals[name], signals["pgrpo"])
            cells += [f"{ratio:.2f} [{low:.2f}..{high:.2f}]", f"{expected[name] / expected['pgrpo']:.2f}"]
        rows.append([str(G), f"{1 / signals['pgrpo'].ratio:,.0f}", *cells])
    heading = ["G", "`pgrpo`: completions for a signal as large as the noise"]
    for name in ESTIMATORS[1:]:
        heading += [f"`{name}` / `pgrpo`, measured", "predicted"]
    groups = "; ".join(
        f"{name}: mean {s.mean:.3f}, s² {s.within_variance:.3f}, τ² {s.between_variance:.3f}"
        for name, s in history.stats(sorted(set(sample.groups_N))).items()
    )
    count = len(sample.rewards_N)
    size = f"{count:,} completions of {count // sample.per_prompt} prompts"
    return f"{size}; rewards: {groups}.\n\n{table(heading, rows)}"


def gradients(policy: Any, rollouts: Any, temperature: float) -> Iterator[torch.Tensor]:
    """The sketch of the gradient of each completion's log-probability, summed over its tokens (`constant`).

    A count sketch: every coordinate is added, with a random sign, to one of D sums.
    """
    from pgrpo_cli.model.update.logprobs import packed_logprobs
    from pgrpo_cli.model.update.packing import micro_batches, pack

    parameters = list(policy.trainable.values())
    generator = torch.Generator().manual_seed(0)
    size = sum(p.numel() for p in parameters)
    place = torch.randint(DIMENSIONS, (size,), generator=generator)
    sign = torch.randint(2, (size,), generator=generator) * 2.0 - 1
    policy.train()
    for completion in range(len(rollouts.texts_N)):
        (rows,) = micro_batches(rollouts, 1 << 30, {completion})
        packed = pack(rows, rollouts, pad_token_id=policy.tokenizer.pad_token_id)
        logprob = packed_logprobs(policy, packed, temperature=temperature).sum()
        found = torch.autograd.grad(logprob, parameters)
        flat = torch.cat([part.float().flatten().cpu() for part in found])
        yield torch.zeros(DIMENSIONS).index_add(0, place, flat * sign)


def sampled(run_path: Path, step: int | None, prompts_per_group: int, completions: int, tell: Any) -> Sample:
    """Completions of training prompts of a run, by the base model or by the one after `step`, with their
    rewards and gradients.
    """
    from pgrpo_cli.data.prepared import load_prepared
    from pgrpo_cli.model.load.from_recipe import load_policy
    from pgrpo_cli.model.rollout.sample import sample
    from pgrpo_cli.model.rollout.sampling import sampling_settings
    from pgrpo_cli.rewards.build import build_rewards
    from pgrpo_cli.rewards.scoring import Scorer
    from pgrpo_cli.state.checkpoint import checkpoint_at
    from pgrpo_cli.state.run import RunDirectory

    run = RunDirectory(run_path)
    recipe = run.recipe()
    recipe_dir = run.path
    adapter = None if step is None else checkpoint_at(run, step).path
    policy = load_policy(recipe, recipe_dir=recipe_dir, adapter=adapter)
    settings = sampling_settings(recipe.rollout.model_copy(update={"num_generations": completions}))
    rewards = build_rewards(recipe.rewards, recipe_dir, allow_code=False)
    prompts = chosen(load_prepared(run.path, "train"), prompts_per_group)
    groups_N: list[str] = []
    rewards_N: list[float] = []
    # Made at once: small tensors that stay, between large ones that go, would fragment the heap.
    gradients_N_D = torch.empty(len(prompts) * completions, DIMENSIONS)
    with Scorer(rewards) as scorer:
        for start in range(0, len(prompts), 8):
            rollouts = sample(policy, prompts[start : start + 8], settings, seed=start)
            groups_N += rollouts.preference_groups_N
            rewards_N += [score.value for score in scorer.start().scores(rollouts.completions())]
            done = start * completions
            for n, sketch_D in enumerate(gradients(policy, rollouts, recipe.rollout.temperature), start=done):
                gradients_N_D[n] = sketch_D
            tell(f"{len(rewards_N)} of {len(gradients_N_D)} completions")
    return Sample(groups_N, rewards_N, gradients_N_D, completions)


def chosen(prompts: Sequence[PreparedPrompt], per_group: int) -> list[PreparedPrompt]:
    """The first prompts of each preference group, at most `per_group`."""
    by_group: dict[str, list[PreparedPrompt]] = {}
    for prompt in prompts:
        by_group.setdefault(prompt.preference_group, []).append(prompt)
    return [prompt for group in sorted(by_group) for prompt in by_group[group][:per_group]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="a run directory with prepared data")
    parser.add_argument("--step", type=int, help="the checkpoint after this step (default: the base model)")
    parser.add_argument(
        "--prompts", type=int, default=40, help="of each preference group, at most (default 40)"
    )
    parser.add_argument(
        "--completions", type=int, default=16, help="per prompt, a multiple of 16 (default 16)"
    )
    parser.add_argument("--keep", type=Path, metavar="FILE", help="keeps the sample, or has it")
    parser.add_argument("--write", nargs=2, metavar=("FILE", "NAME"), help="renew FILE's table of that name")
    arguments = parser.parse_args()
    prepare_libraries()
    console = Console(stderr=True)
    if arguments.keep and arguments.keep.exists():
        sample = Sample(**torch.load(arguments.keep, weights_only=True))
    else:
        sample = sampled(
            arguments.run, arguments.step, arguments.prompts, arguments.completions, console.print
        )
        if arguments.keep:
            torch.save(vars(sample), arguments.keep)
    text = tables(sample)
    Console(soft_wrap=True).print(text, markup=False, highlight=False)
    if arguments.write:
        renew(Path(arguments.write[0]), arguments.write[1], text)


if __name__ == "__main__":
    main()
