"""Loss, gradient and metrics equal those of TRL's GRPOTrainer on the same tensors."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from trl import GRPOTrainer

from pgrpo_cli.algo.losses import mean_metrics, policy_loss

N, T = 6, 7
MAX_COMPLETION_TOKENS = 9
CLIP_LOW, CLIP_HIGH = 0.2, 0.28

# TRL's loss_type, our aggregation. On a step in one piece, BNPO and DAPO are the same mean over tokens.
AGGREGATIONS = {"grpo": "sequence_mean", "bnpo": "token_mean", "dapo": "token_mean", "dr_grpo": "constant"}


class LossOnly(GRPOTrainer):
    """The real `_compute_loss` with log-probabilities in place of a model."""

    def __init__(self, loss_type: str, beta: float, pieces: int) -> None:
        self.loss_type, self.beta = loss_type, beta
        self.epsilon_low, self.epsilon_high = CLIP_LOW, CLIP_HIGH
        self.max_completion_length = MAX_COMPLETION_TOKENS
        self.current_gradient_accumulation_steps = pieces
        self.importance_sampling_level = "token"
        self.top_entropy_quantile = 1.0
        self.off_policy_mask_threshold = None
        self.use_vllm = self.aux_loss_enabled = self._entropy_bonus_enabled = False
        self.model = SimpleNamespace(training=True)
        self.args = SimpleNamespace(use_bias_correction_kl=False, delta=None, steps_per_generation=pieces)
        self.accelerator = SimpleNamespace(
            num_processes=1, gather=lambda x: x, reduce=lambda x, reduction: x, device=torch.device("cpu")
        )
        self._metrics = {"train": defaultdict(list)}

    def _get_per_token_logps_and_entropies(self, model, *args, **kwargs):
        return model, torch.zeros_like(model), None


class Tensors:
    """One step's tensors, float64: ragged lengths, ratios far enough from 1 to be clipped on both sides."""

    def __init__(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randn(3, N, T, generator=generator, dtype=torch.float64)
        self.logprobs = (drawn[0] - 3).requires_grad_()
        self.sampling = drawn[0] - 3 + drawn[1]
        self.reference = drawn[0] - 3 + drawn[2]
        signs = torch.tensor([1, -1, -1, 1, -1, 1])
        self.advantages = signs * torch.rand(N, generator=generator, dtype=torch.float64)
        self.mask = torch.arange(T) < torch.tensor([7, 1, 4, 5, 3, 6]).unsqueeze(1)

    def gradient(self, loss: Tensor) -> Tensor:
        return torch.autograd.grad(loss, self.logprobs)[0]


def trl_loss(trainer: LossOnly, t: Tensors, rows: slice, on_policy: bool = False) -> Tensor:
    mask = t.mask[rows].long()
    inputs = {
        "prompt_ids": torch.zeros(len(mask), 2, dtype=torch.long),
        "prompt_mask": torch.ones(len(mask), 2, dtype=torch.long),
        "completion_ids": torch.zeros_like(mask),
        "completion_mask": mask,
        "advantages": t.advantages[rows],
        "ref_per_token_logps": t.reference[rows],
        "old_per_token_logps": None if on_policy else t.sampling[rows],
        "num_items_in_batch": t.mask.sum(),
    }
    return trainer._compute_loss(t.logprobs[rows], inputs)


def our_loss(t: Tensors, sampling: Tensor, loss_type: str, beta: float):
    return policy_loss(
        t.logprobs,
        sampling,
        t.advantages,
        t.mask,
        reference_logprobs_N_T=t.reference if beta else None,
        clip_low=CLIP_LOW,
        clip_high=CLIP_HIGH,
        beta=beta,
        aggregation=AGGREGATIONS[loss_type],
        num_completions=N,
        num_tokens=int(t.mask.sum()),
        max_completion_tokens=MAX_COMPLETION_TOKENS,
    )


each_loss = pytest.mark.parametrize("loss_type", AGGREGATIONS)
each_beta = pytest.mark.parametrize("beta", [0.0, 0.04])


@each_loss
@each_beta
@pytest.mark.parametrize("seed", range(3))
def test_loss_gradient_and_metrics_equal_trl(loss_type, beta, seed):
    t = Tensors(seed)
    trainer = LossOnly(loss_type, beta, pieces=1)
    theirs = trl_loss(trainer, t, slice(None))
    ours = our_loss(t, t.sampling, loss_type, beta)
    assert ours.loss.item() == pytest.approx(theirs.item(), rel=1e-13, abs=1e-15)
    assert torch.allclose(t.gradient(ours.loss), t.gradient(theirs), rtol=1e-12, atol=1e-16)

    logged = {name: values[0] for name, values in trainer._metrics["train"].items()}
    metrics = mean_metrics([ours.metrics])
    assert metrics["clip_fraction_low"] == pytest.approx(logged["clip_ratio/low_mean"])
    assert metrics["clip_fraction_high"] == pytest.approx(logged["clip_ratio/high_mean"])
    assert min(metrics["clip_fraction_low"], metrics["clip_fraction_high"]) > 0
    if beta:
        assert metrics["kl"] == pytest.approx(logged["kl"])


@each_loss
@each_beta
def test_on_policy_where_trl_has_no_old_logprobs(loss_type, beta):
    t = Tensors(7)
    theirs = trl_loss(LossOnly(loss_type, beta, pieces=1), t, slice(None), on_policy=True)
    ours = our_loss(t, t.logprobs.detach(), loss_type, beta)
    assert ours.loss.item() == pytest.approx(theirs.item(), rel=1e-13, abs=1e-15)
    assert torch.allclose(t.gradient(ours.loss), t.gradient(theirs), rtol=1e-12, atol=1e-16)


@pytest.mark.parametrize("loss_type", ["grpo", "dapo", "dr_grpo"])
@each_beta
def test_a_step_equals_trl_over_equal_gradient_accumulation_pieces(loss_type, beta):
    """BNPO is left out: TRL averages it over each piece's own tokens, so that it depends on the cut."""
    t = Tensors(11)
    trainer = LossOnly(loss_type, beta, pieces=3)
    theirs = sum(trl_loss(trainer, t, slice(start, start + 2)) for start in range(0, N, 2))
    ours = our_loss(t, t.sampling, loss_type, beta)
    assert ours.loss.item() == pytest.approx(theirs.item(), rel=1e-13, abs=1e-15)
    assert torch.allclose(t.gradient(ours.loss), t.gradient(theirs), rtol=1e-12, atol=1e-16)
