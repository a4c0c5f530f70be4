"""The factor between the output layer and a model's logits.

Rollouts and training apply the output layer themselves, to some positions only. Some models multiply its
result by a constant (Granite divides by `logits_scaling`, Cohere multiplies by `logit_scale`, Falcon-H1 by
`lm_head_multiplier`). There is no list of them: the factor is measured against the model's own forward pass.
"""

from __future__ import annotations

import torch

from pgrpo_cli.errors import ModelError
from pgrpo_cli.pretrained.location import first_line

from ..policy import Policy

_TOKENS = 16
_EQUAL = 1e-3
"""A factor as near to 1 is 1: half precision rounds each logit by up to 0.4 %, their sums by far less."""
_REST = 0.05
"""The share of the logits that a factor may leave unexplained."""


def measured_logit_scale(policy: Policy) -> float:
    """The factor, to four digits. Raises ModelError if the logits differ by more than a factor."""
    generator = torch.Generator().manual_seed(0)
    ids_1_T = torch.randint(policy.config.vocab_size, (1, _TOKENS), generator=generator).to(policy.device)
    was_training = policy.model.training
    policy.model.eval()
    name = type(policy.model.get_base_model()).__name__
    try:
        with torch.no_grad():
            hidden_1_T_D = policy.decoder(input_ids=ids_1_T, use_cache=False).last_hidden_state
            ours = policy.logits(hidden_1_T_D).double()
            theirs = policy.model(input_ids=ids_1_T, use_cache=False).logits.double()
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise ModelError(
            f"{name} with its adapter fails on a few tokens: {type(error).__name__}: {first_line(error)}",
            remedy="Use another model, or name linear layers of it in adapter.target_modules.",
        ) from error
    policy.model.train(was_training)
    # Least squares: the factor that leaves the smallest rest.
    scale = float((ours * theirs).sum() / ours.square().sum())
    rest = float((theirs - scale * ours).norm() / theirs.norm())
    if not (rest <= _REST and scale > 0):
        raise ModelError(
            f"the logits of {name} are not its output layer's times a constant: {rest:.0%} are left over",
            remedy="Such a model cannot be trained here: its log-probabilities would be others than its own.",
        )
    return 1.0 if abs(scale - 1) < _EQUAL else float(f"{scale:.4g}")
