"""A policy of a few thousand parameters that learns many tastes by the project's own history, advantages and
loss.

A world has K preference groups. A prompt has F features, a completion T tokens of V kinds, and the reward of
a completion is

    scale of the preference group · (prompt's range · utility + difficulty · offset of the prompt + noise · ε)

where utility is the scaled sum over tokens of (taste · features)[token]; offset and ε are standard normal.
Under the untrained, uniform policy the utility of a prompt's completions has a standard deviation of about 1:
`difficulty` and `noise` are in units of it.

The policy is a softmax in each position over features · (shared + OWN_WEIGHT · own of the preference group).
All preference groups move the shared weights, each its own ones slower: what most want is learned first, and
those who want something else must win it back. Tokens are drawn independently, so expected rewards are exact
sums.

Many runs (replicas) go through one tensor. A replica depends on nothing beside it: all its draws come from
its own seed, its preference groups have names of their own in the history, and its loss has its own
parameters. The same seed gives every estimator the same world, prompts, uniform numbers and noise.

Axes: S replicas, B steps, P prompts, G completions, K preference groups, E held-out prompts, F, T, V.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor

from pgrpo_cli.algo.advantages import compute_advantages
from pgrpo_cli.algo.estimators import Estimator
from pgrpo_cli.algo.history import HistoryKind, RewardHistory
from pgrpo_cli.algo.losses import policy_loss
from pgrpo_cli.algo.types import Advantages, GroupStats

HELD_OUT = 24
AGREEMENT = 0.25
"""Share of a taste's variance that all preference groups have in common."""
OWN_WEIGHT = 0.5


@dataclass(frozen=True)
class HistorySettings:
    """As the recipe's `history`."""

    kind: HistoryKind = "cumulative"
    decay: float | None = None
    window: int | None = None
    winsorize: float | None = None
    update: str = "before"
    min_count: int = 16


@dataclass(frozen=True)
class World:
    """What a run meets. Lists have an entry a preference group, the first of which is the majority."""

    shares_K: tuple[float, ...] = (0.4, 0.2, 0.2, 0.2)
    """Of the prompts."""
    scale_ratio: float = 4.0
    """Largest reward scale over the smallest; geometric between them, in an order by chance."""
    difficulty_K: tuple[float, ...] = (0.5, 0.5, 0.5, 0.5)
    noise: float = 1.0
    range_spread: float = 0.0
    """Standard deviation of the logarithm of a prompt's range, whose mean square is 1."""
    prompts: int = 8
    num_generations: int = 4
    features: int = 8
    tokens: int = 4
    vocabulary: int = 16
    history: HistorySettings = field(default_factory=HistorySettings)


@dataclass(frozen=True)
class Draws:
    """All that chance decides, for S replicas."""

    tastes_S_K_F_T_V: Tensor
    scales_S_K: Tensor
    held_out_S_K_E_F: Tensor
    ranges_S_K_E: Tensor
    """Of the held-out prompts."""
    groups_S_B_P: Tensor
    features_S_B_P_F: Tensor
    ranges_S_B_P: Tensor
    offsets_S_B_P: Tensor
    random_groups_S_B_P: Tensor
    uniforms_S_B_P_G_T: Tensor
    noise_S_B_P_G: Tensor
    chances_S_B_P_G: Tensor
    """Uniform, for what a `Course` decides by chance."""

    @classmethod
    def of(cls, world: World, seeds_S: Sequence[int], steps: int) -> Draws:
        """The draws of each seed, stacked."""
        each = [cls.of_seed(world, seed, steps) for seed in seeds_S]
        return cls(**{f.name: torch.stack([getattr(one, f.name) for one in each]) for f in fields(cls)})

    def repeated(self, times: int) -> Draws:
        """All replicas, `times` times one after the other."""
        return Draws(**{f.name: torch.cat([getattr(self, f.name)] * times) for f in fields(self)})

    @classmethod
    def of_seed(cls, world: World, seed: int, steps: int) -> Draws:
        """One replica's draws, without the axis S."""
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        def uniform(*shape: int) -> Tensor:
            return torch.rand(shape, generator=generator, dtype=torch.float64)

        K, B, P, F = len(world.shares_K), steps, world.prompts, world.features
        shape = (F, world.tokens, world.vocabulary)
        common, own = normal(*shape), normal(K, *shape)
        shares_K = torch.tensor(world.shares_K, dtype=torch.float64)
        order_K = torch.randperm(K, generator=generator)
        stream = (B, P)
        return cls(
            tastes_S_K_F_T_V=math.sqrt(AGREEMENT) * common + math.sqrt(1 - AGREEMENT) * own,
            scales_S_K=world.scale_ratio ** (order_K / max(K - 1, 1)).double(),
            held_out_S_K_E_F=_features(normal(K, HELD_OUT, F - 1)),
            ranges_S_K_E=_ranges(normal(K, HELD_OUT), world.range_spread),
            groups_S_B_P=_choices(uniform(*stream), shares_K),
            features_S_B_P_F=_features(normal(*stream, F - 1)),
            ranges_S_B_P=_ranges(normal(*stream), world.range_spread),
            offsets_S_B_P=normal(*stream),
            random_groups_S_B_P=_choices(uniform(*stream), shares_K),
            uniforms_S_B_P_G_T=uniform(*stream, world.num_generations, world.tokens),
            noise_S_B_P_G=normal(*stream, world.num_generations),
            chances_S_B_P_G=uniform(*stream, world.num_generations),
        )


@dataclass(frozen=True)
class Trained:
    """What came out of S replicas."""

    curves_S_C_K: Tensor
    """Expected held-out reward at C moments, evenly spaced from before the first step to after the last: 0 is
    the uniform policy's, 1 the best there is.
    
    
    """
    stats_S: list[list[GroupStats]]
    """The reward history at the end; those of preference groups that had a prompt."""


class Policy:
    """S policies. `learning_rates_S` are Adam's: it moves a parameter by about 1 whatever the size of its
    gradient, so a factor on the parameter is the step of the weight.


    """

    def __init__(self, world: World, learning_rates_S: Tensor) -> None:
        K, shape = len(world.shares_K), (world.features, world.tokens, world.vocabulary)
        self.parameters = torch.zeros(
            (len(learning_rates_S), K + 1, *shape), dtype=torch.float64, requires_grad=True
        )
        weights_K = torch.tensor([OWN_WEIGHT] * K + [1.0], dtype=torch.float64)
        self._rates = learning_rates_S.double()[:, None] * weights_K
        self._optimizer = torch.optim.Adam([self.parameters], lr=1.0)

    def logprobs(self, features_S_P_F: Tensor, groups_S_P: Tensor) -> Tensor:
        """Of every token in every position, [S, P, T, V]."""
        replicas = torch.arange(len(groups_S_P))[:, None]
        weights = self._weights()[replicas, groups_S_P]
        return torch.einsum("spf,spftv->sptv", features_S_P_F, weights).log_softmax(-1)

    def logprobs_of_all(self, features_S_K_E_F: Tensor) -> Tensor:
        """The same for E prompts of each preference group, [S, K, E, T, V]."""
        return torch.einsum("skef,skftv->sketv", features_S_K_E_F, self._weights()).log_softmax(-1)

    def _weights(self) -> Tensor:
        """Of each preference group, the shared ones added, [S, K, F, T, V]."""
        weights = self.parameters * self._rates[..., None, None, None]
        return weights[:, :-1] + weights[:, -1:]

    def step(self, loss: Tensor) -> None:
        """One update of every replica; `loss` is the sum of theirs."""
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()


class Course:
    """What a study changes in the course of a run; this one changes nothing. Steps count from 0."""

    clip: float | None = None

    def groups(self, draws: Draws, step: int) -> Tensor:
        """The preference groups of a step's prompts, [S, P]."""
        return draws.groups_S_B_P[:, step]

    def rewards(self, draws: Draws, step: int, rewards_S_P_G: Tensor) -> Tensor:
        """The rewards that a step's completions get in place of theirs, [S, P, G]."""
        return rewards_S_P_G

    def before_entering(self, history: RewardHistory, names_N: list[str], step: int) -> None:
        """Called before the rewards of the step's completions enter the history. `step` counts from 1."""


def train(
    world: World,
    draws: Draws,
    estimator: Estimator,
    learning_rates_S: Tensor,
    *,
    random_groups: bool = False,
    evaluate_every: int = 5,
    course: Course | None = None,
) -> Trained:
    """Train a replica for each of `draws` through all its steps. `random_groups`: rewards enter the histories
    of preference groups drawn by chance, the paper's ablation.
    """
    course = course or Course()
    draws = replace(draws, groups_S_B_P=draws.groups_S_B_P.clone())
    S, B, _, _ = draws.noise_S_B_P_G.shape
    K = len(world.shares_K)
    settings = world.history
    history = RewardHistory(
        settings.kind, decay=settings.decay, window=settings.window, winsorize=settings.winsorize
    )
    policy = Policy(world, learning_rates_S)
    utilities = held_out_utilities(draws)
    curves = [progress(policy, draws, utilities)]
    labels = draws.random_groups_S_B_P if random_groups else draws.groups_S_B_P
    for b in range(B):
        draws.groups_S_B_P[:, b] = course.groups(draws, b)
        logprobs_S_P_T_V = policy.logprobs(draws.features_S_B_P_F[:, b], draws.groups_S_B_P[:, b])
        tokens_S_P_G_T = drawn(logprobs_S_P_T_V.detach(), draws.uniforms_S_B_P_G_T[:, b])
        rewards_S_P_G = course.rewards(draws, b, rewards(world, draws, b, tokens_S_P_G_T))
        advantages = _advantages(rewards_S_P_G, labels[:, b], history, estimator, settings, course, b + 1)
        policy.step(_loss(logprobs_S_P_T_V, tokens_S_P_G_T, advantages))
        if (b + 1) % evaluate_every == 0:
            curves.append(progress(policy, draws, utilities))
    stats = history.stats()
    found = [[stats[name] for k in range(K) if (name := f"{s}/{k}") in stats] for s in range(S)]
    return Trained(torch.stack(curves, 1), found)


def rewards(world: World, draws: Draws, step: int, tokens_S_P_G_T: Tensor) -> Tensor:
    """The rewards of a step's completions, [S, P, G]. `step` counts from 0."""
    replicas = torch.arange(len(tokens_S_P_G_T))[:, None]
    groups = draws.groups_S_B_P[:, step]
    tastes = draws.tastes_S_K_F_T_V[replicas, groups]
    utilities = torch.einsum("spf,spftv->sptv", draws.features_S_B_P_F[:, step], tastes)
    chosen = utilities.gather(-1, tokens_S_P_G_T.transpose(2, 3)).sum(2) / math.sqrt(world.tokens)
    difficulty_K = torch.tensor(world.difficulty_K, dtype=torch.float64)
    offsets = difficulty_K[groups] * draws.offsets_S_B_P[:, step]
    clean = draws.ranges_S_B_P[:, step, :, None] * chosen + offsets[..., None]
    return draws.scales_S_K[replicas, groups][..., None] * (
        clean + world.noise * draws.noise_S_B_P_G[:, step]
    )


def drawn(logprobs_S_P_T_V: Tensor, uniforms_S_P_G_T: Tensor) -> Tensor:
    """Tokens [S, P, G, T], by the inverse of the distribution function."""
    heights = logprobs_S_P_T_V.exp().cumsum(-1)[:, :, None]
    tokens = (uniforms_S_P_G_T[..., None] >= heights).sum(-1)
    return tokens.clamp(max=logprobs_S_P_T_V.shape[-1] - 1)


def held_out_utilities(draws: Draws) -> Tensor:
    """What each token is worth in each position, for the held-out prompts, [S, K, E, T, V]."""
    worth = torch.einsum("skef,skftv->sketv", draws.held_out_S_K_E_F, draws.tastes_S_K_F_T_V)
    return worth * draws.ranges_S_K_E[..., None, None] / math.sqrt(worth.shape[-2])


@torch.no_grad()
def progress(policy: Policy, draws: Draws, utilities_S_K_E_T_V: Tensor) -> Tensor:
    """Exact expected utility on held-out prompts, from 0 (uniform policy) to 1 (best), [S, K]."""
    probabilities = policy.logprobs_of_all(draws.held_out_S_K_E_F).exp()
    expected = (probabilities * utilities_S_K_E_T_V).sum((2, 3, 4))
    uniform = utilities_S_K_E_T_V.mean(-1).sum((2, 3))
    best = utilities_S_K_E_T_V.amax(-1).sum((2, 3))
    return (expected - uniform) / (best - uniform)


def _advantages(
    rewards_S_P_G: Tensor,
    labels_S_P: Tensor,
    history: RewardHistory,
    estimator: Estimator,
    settings: HistorySettings,
    course: Course,
    step: int,
) -> Advantages:
    """The history and the advantages in the order that `pgrpo train` has them in."""
    G = rewards_S_P_G.shape[-1]
    names = [f"{s}/{k}" for s, row in enumerate(labels_S_P.tolist()) for k in row for _ in range(G)]
    rewards_N = rewards_S_P_G.flatten()
    before = settings.update == "before"
    course.before_entering(history, names, step)
    if before:
        history.update(rewards_N, names, num_generations=G, step=step)
    found = compute_advantages(
        rewards_N, names, num_generations=G, history=history, estimator=estimator,
        min_count=0 if before else settings.min_count, clip=course.clip,
    )  # fmt: skip
    if not before:
        history.update(rewards_N, names, num_generations=G, step=step)
    return found


def _loss(logprobs_S_P_T_V: Tensor, tokens_S_P_G_T: Tensor, advantages: Advantages) -> Tensor:
    """The sum over replicas of each one's loss."""
    chosen = logprobs_S_P_T_V.gather(-1, tokens_S_P_G_T.transpose(2, 3)).transpose(2, 3)
    logprobs_N_T = chosen.flatten(0, 2)
    T = logprobs_N_T.shape[-1]
    num_completions = len(logprobs_N_T) // len(tokens_S_P_G_T)
    return policy_loss(
        logprobs_N_T, logprobs_N_T.detach(), advantages.advantages_N,
        torch.ones_like(logprobs_N_T, dtype=torch.bool), clip_low=0.2, clip_high=0.2, beta=0.0,
        aggregation="sequence_mean", num_completions=num_completions, num_tokens=num_completions * T,
        max_completion_tokens=T,
    ).loss  # fmt: skip


def _features(normal: Tensor) -> Tensor:
    """A constant and normal ones, of squared length 1 in the mean."""
    return torch.cat([torch.ones_like(normal[..., :1]), normal], -1) / math.sqrt(normal.shape[-1] + 1)


def _ranges(normal: Tensor, spread: float) -> Tensor:
    """Log-normal with mean square 1."""
    return torch.exp(spread * normal - spread**2)


def _choices(uniform: Tensor, shares_K: Tensor) -> Tensor:
    """Indices with the probabilities `shares_K`."""
    heights = (shares_K / shares_K.sum()).cumsum(0)
    return torch.searchsorted(heights, uniform, right=True).clamp(max=len(shares_K) - 1)
