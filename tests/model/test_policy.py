"""In training mode a policy computes what it computes in rollouts, but for the adapter's dropout."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pgrpo_cli.model.policy import Policy
from tests.support.policies import GEMMA3N, tiny_policy

IDS = torch.arange(2, 26).view(1, -1)


def _logits(policy: Policy) -> torch.Tensor:
    with torch.no_grad():
        return policy.model(input_ids=IDS).logits  # type: ignore[no-any-return]


@pytest.mark.parametrize(("architecture", "changes"), [("llama", {}), ("gemma3n_text", GEMMA3N)])
def test_training_computes_what_rollouts_compute(architecture: str, changes: dict[str, Any]) -> None:
    policy = tiny_policy(architecture, torch.float32, **changes)
    policy.model.eval()
    expected = _logits(policy)
    policy.train()
    assert torch.equal(_logits(policy), expected)


def test_layers_are_checkpointed_in_training() -> None:
    policy = tiny_policy()
    policy.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    passes = []
    policy.decoder.layers[0].input_layernorm.register_forward_hook(lambda *_: passes.append(1))
    policy.train()
    policy.model(input_ids=IDS, use_cache=False).logits.sum().backward()
    assert len(passes) == 2


def test_the_adapters_dropout_is_on_in_training() -> None:
    policy = tiny_policy(dropout=0.25)
    policy.model.eval()
    assert torch.equal(_logits(policy), _logits(policy))
    policy.train()
    assert not torch.equal(_logits(policy), _logits(policy))
