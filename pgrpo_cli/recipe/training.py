"""`rollout`, `advantage`, `history`, `loss`, `optimizer`, `train`, `log`: how a run samples and trains."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from pgrpo_cli.algo.estimators import (
    Aggregation,
    Baseline,
    Estimator,
    Preset,
    Scale,
    resolve_estimator,
)

from .base import Section, Violation

Tokens = Annotated[int, Field(ge=1)] | Literal["auto"]
"""A budget of tokens, or that of the device; a run keeps the one that it began with on a device."""
TOKENS_PER_BATCH, TOKENS_PER_MICRO_BATCH = 8192, 1024
"""What `auto` is on a CPU: it is as fast with few tokens, and all else needs its memory."""


class RolloutSection(Section):
    """How completions are sampled."""

    num_generations: int = Field(
        8, ge=2, le=4096, description="Completions per prompt (G), at least 2: a single one has no spread."
    )
    max_completion_tokens: int = Field(64, ge=1, le=1_000_000, description="Longest completion, in tokens.")
    temperature: float = Field(
        1.0, ge=1e-3, le=1000, description="Divides the logits, both in sampling and in the loss."
    )
    top_p: float = Field(
        1.0,
        ge=1e-6,
        le=1,
        description="Sample from the smallest set of tokens with this probability; 1: all.",
    )
    top_k: int = Field(0, ge=0, description="Sample from this many most likely tokens; 0: all.")
    tokens_per_batch: Tokens = Field(
        "auto",
        description="Budget of cached tokens, prompts and completions, decoded together. `auto`: all "
        f"of a step, or as large a part as the GPU's free memory holds; {TOKENS_PER_BATCH} on a CPU.",
    )

    @property
    def batch_budget(self) -> int:
        """Tokens per batch; that of a CPU if the value is `auto` and has not been chosen yet."""
        return TOKENS_PER_BATCH if self.tokens_per_batch == "auto" else self.tokens_per_batch


class AdvantageSection(Section):
    """From rewards to advantages: (reward - baseline) / scale."""

    estimator: Literal[Preset, "custom"] = Field(
        "pgrpo", description="Named pair of baseline and scale; `custom` takes the two fields below."
    )
    baseline: Baseline | None = Field(
        None, description="What is subtracted from a reward; only with `estimator: custom`."
    )
    scale: Scale | None = Field(
        None, description="What the difference is divided by; only with `estimator: custom`."
    )
    epsilon: float = Field(1e-4, ge=0, le=1e6, description="Added to the scale, in reward units.")
    clip: float | None = Field(
        5.0,
        gt=0,
        le=1e6,
        description="Largest size of an advantage. Larger ones are clipped to it, after normalization and, "
        "with `aggregate: normalize_then_sum`, after the sum. Null: no limit.",
    )
    aggregate: Literal["sum_then_normalize", "normalize_then_sum"] = Field(
        "sum_then_normalize",
        description="Rewards are summed by weight, then normalized; or each is normalized by a history of "
        "its own, and the advantages are summed by weight: for rewards of unlike scale.",
    )
    renormalize: bool = Field(
        False,
        description="With `aggregate: normalize_then_sum`: center the sums of a step and divide them by "
        "their standard deviation, as GDPO does.",
    )

    @property
    def resolved_estimator(self) -> Estimator:
        """How advantages are computed."""
        return resolve_estimator(self.estimator, self.baseline, self.scale, self.epsilon)

    def violations(self) -> Iterator[Violation]:
        """Baseline and scale are set with `custom`, and only then; sums are centered where there are any."""
        for key in ("baseline", "scale"):
            value = getattr(self, key)
            if self.estimator == "custom" and value is None:
                yield Violation((key,), value, "required with estimator 'custom'; set it")
            if self.estimator != "custom" and value is not None:
                remedy = f"remove it, or set advantage.estimator to 'custom' (found {self.estimator!r})"
                yield Violation((key,), value, f"allowed with estimator 'custom' only; {remedy}")
        if self.renormalize and self.aggregate != "normalize_then_sum":
            rule = "takes sums of advantages; set advantage.aggregate to 'normalize_then_sum', or remove it"
            yield Violation(("renormalize",), True, rule)


class CumulativeHistory(Section):
    """Every reward counts alike, for ever: the paper's."""

    type: Literal["cumulative"] = "cumulative"


class EmaHistory(Section):
    """Old rewards fade by a constant factor a reward."""

    type: Literal["ema"] = "ema"
    decay: float = Field(
        0.995,
        gt=0,
        le=0.999999,
        description="Factor of a reward's weight for each later reward of its preference group.",
    )


class WindowHistory(Section):
    """Only the latest rewards of a preference group count."""

    type: Literal["window"] = "window"
    size: int = Field(512, ge=2, le=100_000, description="Number of rewards remembered per preference group.")


HistoryKind = Annotated[CumulativeHistory | EmaHistory | WindowHistory, Field(discriminator="type")]


class HistorySection(Section):
    """The reward history of each preference group."""

    kind: HistoryKind = Field(CumulativeHistory(), description="Which past rewards are remembered.")
    update: Literal["before", "after"] = Field(
        "before",
        description="Whether a batch enters the history before its advantages are computed, or after.",
    )
    min_count: int = Field(
        16,
        ge=2,
        description="With `update: after`: rewards that a group needs before its history is used.",
    )

    winsorize: float | None = Field(
        None,
        ge=2,
        le=1e6,
        description="For rewards with outliers, such as 4: a reward enters the history no further from the "
        "mean than this many standard deviations. At least 2: with less, usual rewards are limited again and "
        "again, and the standard deviation shrinks. No effect where the range of every reward is known; not "
        "for rare successes of other rewards, which count less and less. Null: as it is, as in the paper.",
    )

    preference_groups: Literal["named", "random"] = Field(
        "named",
        description="`random`: the control of an experiment. Each prompt is assigned by chance to one of as "
        "many groups of the same sizes, whose reward history its rewards enter; rewards, sampling and "
        "evaluation stay with the named ones. `pgrpo sweep --control random_groups` makes such runs "
        "beside the others.",
    )

    def violations(self) -> Iterator[Violation]:
        """A window shorter than `min_count` is never used."""
        kind = self.kind
        if self.update == "after" and isinstance(kind, WindowHistory) and kind.size < self.min_count:
            rule = (
                f"with update 'after' it must be at least history.min_count ({self.min_count}), or the "
                "history is never used; raise the one or lower the other"
            )
            yield Violation(("kind", "size"), kind.size, rule)


class LossSection(Section):
    """The clipped surrogate."""

    aggregation: Literal["auto", Aggregation] = Field(
        "auto",
        description="Mean over tokens, then completions (`sequence_mean`, GRPO); over all tokens "
        "(`token_mean`, DAPO); divided by a constant (`constant`, Dr. GRPO). `auto`: `constant` if the "
        "estimator's baseline is `history` or `shrinkage`, else `sequence_mean`.",
    )
    clip_low: float = Field(0.2, ge=0, lt=1, description="The ratio is clipped below at 1 - clip_low.")
    clip_high: float = Field(0.2, ge=0, le=1000, description="The ratio is clipped above at 1 + clip_high.")
    beta: float = Field(
        0.0,
        ge=0,
        le=1000,
        description="Weight of the KL divergence to the base model; 0 skips its forward pass.",
    )


class AdamW(Section):
    """AdamW with states in 32 bits."""

    type: Literal["adamw"] = "adamw"
    beta1: float = Field(0.9, ge=0, le=0.999999, description="Decay of the first moment per step.")
    beta2: float = Field(0.999, ge=0, le=0.999999, description="Decay of the second moment per step.")
    epsilon: float = Field(1e-8, gt=0, le=1, description="Added to the denominator.")
    weight_decay: float = Field(0.0, ge=0, le=100, description="Decoupled weight decay.")


class AdamW8bit(AdamW):
    """AdamW with states in 8 bits (bitsandbytes); parameters of fewer than 4096 numbers keep 32."""

    type: Literal["adamw_8bit"] = "adamw_8bit"  # type: ignore[assignment]


Optimizer = Annotated[AdamW | AdamW8bit, Field(discriminator="type")]


class TrainSection(Section):
    """The loop."""

    steps: int = Field(
        200, ge=1, le=10_000_000, description="Steps: one rollout each, and `updates_per_rollout` updates."
    )
    prompts_per_step: int = Field(8, ge=1, le=65_536, description="Prompts sampled per step (P).")
    sampler: Literal["proportional", "balanced"] = Field(
        "proportional",
        description="`proportional`: every prompt is sampled equally often. `balanced`: every preference "
        "group is, so rare ones repeat their prompts more often.",
    )
    updates_per_rollout: int = Field(
        1, ge=1, le=1000, description="Optimizer updates made from one batch of rollouts."
    )
    optimizer: Optimizer = Field(AdamW(), description="The optimizer.")
    learning_rate: float = Field(1e-4, gt=0, le=10, description="Peak learning rate.")
    schedule: Literal["cosine", "constant"] = Field("cosine", description="Learning rate after the warm-up.")
    warmup_steps: int = Field(
        0,
        ge=0,
        description="Steps over which the learning rate rises linearly, at most `steps`.",
    )
    max_grad_norm: float = Field(1.0, ge=1e-6, description="Gradients are scaled down to this norm.")
    tokens_per_micro_batch: Tokens = Field(
        "auto",
        description="Budget of tokens, padding included, of one forward and backward pass. `auto`: what the "
        f"GPU's free memory holds, up to 16384; {TOKENS_PER_MICRO_BATCH} on a CPU and with `engine.type: "
        "trl`.",
    )
    gradient_checkpointing: bool = Field(
        False, description="Recompute activations in the backward pass to save memory."
    )
    deterministic: bool = Field(
        False,
        description="Use deterministic kernels on a GPU, as far as they exist, so that a resumed run repeats "
        "an uninterrupted one. It is slower, and an error if torch has none for an update. On a CPU it "
        "changes nothing. A run may be resumed with the other value.",
    )
    save_every: int = Field(10, ge=1, description="Steps between checkpoints.")
    keep_checkpoints: int = Field(
        3,
        ge=2,
        description="Newest checkpoints kept. If one is damaged, the previous one is used.",
    )

    keep_best: Literal["macro", "worst_group"] | None = Field(
        None,
        description="With `eval.every`: the finished adapter is that of the best evaluation, by the mean "
        "over preference groups or by the smallest gain of one. Null: that of the last step.",
    )
    stop_after: int | None = Field(
        None,
        ge=1,
        description="With `keep_best`: training ends after so many evaluations without a better one. Null: "
        "after `steps`.",
    )

    def violations(self) -> Iterator[Violation]:
        """What counts as better must be known."""
        if self.stop_after is not None and self.keep_best is None:
            rule = "counts evaluations that are no better; set train.keep_best to macro or worst_group"
            yield Violation(("stop_after",), self.stop_after, rule)

    def learning_rate_at(self, step: int) -> float:
        """The learning rate of a step, counted from 1: a linear warm-up, then a constant, or a cosine that
        reaches 0 after the last step.
        """
        if step <= self.warmup_steps:
            return self.learning_rate * step / self.warmup_steps
        if self.schedule == "constant":
            return self.learning_rate
        progress = (step - 1 - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))

    @property
    def micro_batch_budget(self) -> int:
        """Tokens per micro-batch; that of a CPU if the value is `auto` and has not been chosen yet."""
        return (
            TOKENS_PER_MICRO_BATCH if self.tokens_per_micro_batch == "auto" else self.tokens_per_micro_batch
        )


class LogSection(Section):
    """Where numbers go besides the run directory."""

    trackers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = Field(
        (), description="Trackers that receive the metrics; each needs its package."
    )
    project: str = Field("pgrpo", description="Project name shown by wandb and trackio.")
