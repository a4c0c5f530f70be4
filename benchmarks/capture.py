"""Majority capture in a small policy: what makes a model answer all preference groups alike, and what helps.

    python benchmarks/capture.py --write docs/mechanisms.md
    python benchmarks/capture.py --seeds 8

There are V answers. Each preference group likes WORTH of its own: its reward is 1 for them, and 0 for all
others. The policy is a softmax over

    base + shared + tag · own of the preference group

`base` gives each preference group its success rate before training. All preference groups move the shared
logits, and each its own ones `tag` times as fast: the smaller `tag` is, the less does the model tell apart
who asks. So the answers that the majority likes become likely for all, and those of the others rare, until
none of these is sampled any more and nothing pulls them back. A real answer may please several preference
groups; here it cannot, which makes capture more frequent.

A run is captured if at its end a preference group succeeds in more than SERVED of its answers, and another
one more rarely than before training.

Axes: S replicas (seeds), C moments of a run, P prompts, G completions, K preference groups, V answers.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from rich.console import Console
from torch import Tensor

from benchmarks.markdown import renew, table
from pgrpo_cli.algo.advantages import compute_advantages
from pgrpo_cli.algo.estimators import resolve_estimator
from pgrpo_cli.algo.history import RewardHistory
from pgrpo_cli.algo.losses import policy_loss

SHARES_K = (0.55, 0.25, 0.13, 0.07)
"""Of the prompts."""
WORTH = 2
OTHERS = 8
"""Answers that nobody likes."""
SERVED = 0.5
MOMENTS = 10
"""At which a run is measured, besides its start."""
ESTIMATORS = ("grpo", "pgrpo", "pgrpo_adaptive")


@dataclass(frozen=True)
class Setting:
    """A recipe, and the world that it meets."""

    num_generations: int = 2
    completions: int = 32
    """Of a step: its prompts times `num_generations`."""
    rate: float = 0.4
    """Adam's: it moves a shared logit by about as much in each step."""
    steps: int = 100
    balanced: bool = False
    clip: float | None = 5.0
    """Of advantages."""
    beta: float = 0.0
    tag: float = 0.25
    first_K: tuple[float, ...] = (0.07, 0.07, 0.07, 0.07)
    """Success rates before training."""


BASE = Setting()
CHANGES: dict[str, dict[str, Any]] = {
    "none": {},
    "`train.sampler: balanced`": {"balanced": True},
    "`loss.beta: 0.01`": {"beta": 0.01},
    "`loss.beta: 0.04`": {"beta": 0.04},
    "`loss.beta: 0.2`": {"beta": 0.2},
    "`balanced` and `beta: 0.04`": {"balanced": True, "beta": 0.04},
    "half the rate": {"rate": 0.2},
    "a quarter of the rate": {"rate": 0.1},
    "a quarter of the rate, 4 times the steps": {"rate": 0.1, "steps": 400},
    "`balanced`, a quarter of the rate, 4 times the steps": {"balanced": True, "rate": 0.1, "steps": 400},
    "4 times the prompts a step": {"completions": 128},
    "`balanced`, 4 times the prompts a step": {"balanced": True, "completions": 128},
    "G = 4, half the prompts": {"num_generations": 4},
    "G = 8, a quarter of the prompts": {"num_generations": 8},
    "G = 8, the same prompts": {"num_generations": 8, "completions": 128},
    "`advantage.clip: null`": {"clip": None},
    "`advantage.clip: 1`": {"clip": 1.0},
    "who asks is read twice as well": {"tag": 0.5},
    "who asks is read four times as well": {"tag": 1.0},
    "who asks is read less than half as well": {"tag": 0.1},
    "`balanced`, who asks is read four times as well": {"balanced": True, "tag": 1.0},
}
CURES = (
    "none",
    "`train.sampler: balanced`",
    "`loss.beta: 0.04`",
    "`balanced` and `beta: 0.04`",
    "`balanced`, a quarter of the rate, 4 times the steps",
    "`balanced`, 4 times the prompts a step",
)
"""The changes that are tried in every world."""
WORLDS: dict[str, tuple[Setting, tuple[str, ...]]] = {
    "every preference group starts at 7 %": (BASE, tuple(CHANGES)),
    "the preference group with 13 % of the prompts starts at 1 %": (
        replace(BASE, first_K=(0.07, 0.07, 0.01, 0.07)),
        (*CURES, "who asks is read four times as well"),
    ),
    "every preference group starts at 2 %, and who asks is read less than half as well": (
        replace(BASE, first_K=(0.02,) * 4, tag=0.1),
        (*CURES, "`balanced`, who asks is read four times as well"),
    ),
}
"""Each with the changes that are tried in it."""


class Policy:
    """S policies."""

    def __init__(self, setting: Setting, replicas: int) -> None:
        K = len(SHARES_K)
        liked = [first / WORTH for first in setting.first_K for _ in range(WORTH)]
        base_V = torch.tensor([*liked, *[(1 - sum(liked)) / OTHERS] * OTHERS], dtype=torch.float64)
        self.base_V = base_V.log()
        self._parameters = torch.zeros(
            (replicas, K + 1, len(base_V)), dtype=torch.float64, requires_grad=True
        )
        # Adam moves a parameter by about 1 whatever its gradient is: the factor is the step of the logit.
        self._steps = setting.rate * torch.tensor([setting.tag] * K + [1.0], dtype=torch.float64)[:, None]
        self._optimizer = torch.optim.Adam([self._parameters], lr=1.0)

    def logprobs(self) -> Tensor:
        """Of every answer to every preference group, [S, K, V]."""
        moved = self._parameters * self._steps
        return (self.base_V + moved[:, :-1] + moved[:, -1:]).log_softmax(-1)

    def success(self) -> Tensor:
        """The probability of a success, exact, [S, K]."""
        probabilities = self.logprobs().detach().exp()
        K = len(SHARES_K)
        return torch.stack([probabilities[:, k, WORTH * k : WORTH * (k + 1)].sum(-1) for k in range(K)], 1)

    def step(self, loss: Tensor) -> None:
        """One update of every replica; `loss` is the sum of theirs."""
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()


def train(setting: Setting, estimator: str, seeds: Sequence[int]) -> Tensor:
    """The success of every preference group at its start and MOMENTS times in a run, for each seed [S, C, K].

    A replica depends on its own seed only.
    """
    S, G = len(seeds), setting.num_generations
    P = setting.completions // G
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def uniform(*shape: int) -> Tensor:
        return torch.stack([torch.rand(shape, generator=one, dtype=torch.float64) for one in generators])

    policy, history, found = Policy(setting, S), RewardHistory(), resolve_estimator(estimator)
    curve = [policy.success()]
    for step in range(1, setting.steps + 1):
        groups_S_P = _groups(setting.balanced, uniform(P))
        logprobs_S_P_V = policy.logprobs()[torch.arange(S)[:, None], groups_S_P]
        heights = logprobs_S_P_V.detach().exp().cumsum(-1)[:, :, None]
        answers_S_P_G = (uniform(P, G)[..., None] >= heights).sum(-1).clamp(max=heights.shape[-1] - 1)
        rewards_N = (answers_S_P_G // WORTH == groups_S_P[..., None]).double().flatten()
        names_N = [f"{s}/{k}" for s, row in enumerate(groups_S_P.tolist()) for k in row for _ in range(G)]
        history.update(rewards_N, names_N, num_generations=G, step=step)
        advantages = compute_advantages(
            rewards_N, names_N, num_generations=G, history=history, estimator=found, clip=setting.clip
        )
        logprobs_N_1 = logprobs_S_P_V.gather(-1, answers_S_P_G).flatten()[:, None]
        reference_N_1 = policy.base_V[answers_S_P_G].flatten()[:, None]
        policy.step(_loss(setting, logprobs_N_1, reference_N_1, advantages.advantages_N))
        if step % (setting.steps // MOMENTS) == 0:
            curve.append(policy.success())
    return torch.stack(curve, 1)


def _groups(balanced: bool, uniforms_S_P: Tensor) -> Tensor:
    """The preference groups of a step's prompts; with `balanced` by systematic sampling, [S, P]."""
    K, P = len(SHARES_K), uniforms_S_P.shape[1]
    shares_K = torch.full((K,), 1 / K) if balanced else torch.tensor(SHARES_K)
    points_S_P = (torch.arange(P) + uniforms_S_P[:, :1]) / P if balanced else uniforms_S_P
    return torch.searchsorted(shares_K.double().cumsum(0), points_S_P, right=True).clamp(max=K - 1)


def _loss(setting: Setting, logprobs_N_1: Tensor, reference_N_1: Tensor, advantages_N: Tensor) -> Tensor:
    """The sum over replicas of each one's loss. An answer counts as one token."""
    return policy_loss(
        logprobs_N_1, logprobs_N_1.detach(), advantages_N, torch.ones_like(logprobs_N_1, dtype=torch.bool),
        reference_logprobs_N_T=reference_N_1, clip_low=0.2, clip_high=0.2, beta=setting.beta,
        aggregation="constant", num_completions=setting.completions, num_tokens=setting.completions,
        max_completion_tokens=1,
    ).loss  # fmt: skip


def captured(success_S_C_K: Tensor) -> Tensor:
    """Whether some preference group is served at the end and another one has lost, [S]."""
    first_S_K, last_S_K = success_S_C_K[:, 0], success_S_C_K[:, -1]
    return (last_S_K > SERVED).any(1) & (last_S_K < first_S_K).any(1)


@dataclass(frozen=True)
class Row:
    """A change in a world; measures by estimator."""

    world: str
    change: str
    captured: dict[str, int]
    area: dict[str, float]
    worst: dict[str, float]


def studied(seeds: int, tell: Callable[[str], None]) -> list[Row]:
    """Every change in every world, with every estimator."""
    rows = []
    for world, (base, changes) in WORLDS.items():
        for change in changes:
            begun = time.perf_counter()
            setting = replace(base, **CHANGES[change])
            runs = {name: train(setting, name, range(seeds)) for name in ESTIMATORS}
            rows.append(
                Row(
                    world, change,
                    {name: int(captured(run).sum()) for name, run in runs.items()},
                    {name: run.mean().item() for name, run in runs.items()},
                    {name: run[:, -1].amin(1).mean().item() for name, run in runs.items()},
                )
            )  # fmt: skip
            tell(f"{world}, {change}: {time.perf_counter() - begun:.0f} s")
    return rows


def tables(rows: Sequence[Row], seeds: int) -> str:
    """The rows as Markdown, one table a world."""
    parts = []
    for world in dict.fromkeys(row.world for row in rows):
        heading = ["change", *(f"captured, `{name}`" for name in ESTIMATORS)]
        heading += [f"{measure}, `{name}`" for measure in ("area", "worst") for name in ("grpo", "pgrpo")]
        cells = [
            [row.change, *(f"{row.captured[name]} of {seeds}" for name in ESTIMATORS),
             *(f"{of[name]:.2f}" for of in (row.area, row.worst) for name in ("grpo", "pgrpo"))]
            for row in rows if row.world == world
        ]  # fmt: skip
        parts += [f"{world}:", "", table(heading, cells), ""]
    return "\n".join(parts).rstrip()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=40, help="runs of every arm (default 40)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the measures there as well")
    parser.add_argument("--write", type=Path, metavar="FILE", help="renew the table between FILE's markers")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    progress = Console(stderr=True)
    rows = studied(arguments.seeds, lambda text: progress.print(text, highlight=False))
    text = tables(rows, arguments.seeds)
    Console(soft_wrap=True).print(text, markup=False, highlight=False)
    if arguments.write:
        renew(arguments.write, "capture", text)
    if arguments.json:
        arguments.json.write_text(json.dumps([vars(row) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
