"""Decoding in tests: policies whose rows finish at different times, and completions to compare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from pgrpo_cli.data.records import PreparedPrompt
from pgrpo_cli.model.policy import Policy
from pgrpo_cli.model.rollout.decode import decode
from pgrpo_cli.model.rollout.sampling import SamplingSettings, uniforms

from .policies import tiny_policy

Completion = tuple[list[int], torch.Tensor]
"""Tokens up to the first stop token, and their log-probabilities."""


def stopping_policy(
    architecture: str = "llama",
    dtype: torch.dtype = torch.float64,
    *,
    stops: int = 6,
    device: str = "cpu",
) -> Policy:
    """Every `stops`-th token of the vocabulary stops, so that rows finish at different times."""
    policy = tiny_policy(architecture, dtype)
    policy.model.to(device).eval()
    policy.model.generation_config.eos_token_id = list(range(1, policy.config.vocab_size, stops))
    return replace(policy, device=torch.device(device))


def uniforms_of(prompts: Sequence[PreparedPrompt], sampling: SamplingSettings, seed: int = 0) -> torch.Tensor:
    """The uniform numbers of all completions, [N, T]."""
    shape = (sampling.num_generations, sampling.max_completion_tokens)
    return torch.cat([uniforms(seed, prompt.prompt_id, *shape) for prompt in prompts])


@torch.no_grad()
def decoded(
    policy: Policy,
    prompts: Sequence[PreparedPrompt],
    sampling: SamplingSettings,
    seed: int = 0,
    **how: Any,
) -> list[Completion]:
    """Completions as `decode` makes them; `how`: its `rounding` and `workspace`."""
    ids_N_T, logprobs_N_T = decode(policy, prompts, sampling, uniforms_of(prompts, sampling, seed), **how)
    found = []
    for ids, logprobs in zip(ids_N_T.tolist(), logprobs_N_T, strict=True):
        stops = [t for t, token in enumerate(ids) if token in policy.stop_token_ids]
        end = stops[0] + 1 if stops else len(ids)
        found.append((ids[:end], logprobs[:end]))
    return found


def assert_same(found: Sequence[Completion], expected: Sequence[Completion], tolerance: float = 1e-6) -> None:
    """The same tokens, and log-probabilities within the tolerance."""
    assert [ids for ids, _ in found] == [ids for ids, _ in expected]
    for (_, ours), (_, theirs) in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=0)
