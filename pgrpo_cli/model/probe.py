"""Which path a model takes is measured, not looked up: the fast path and the plain one on a few random
tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from pgrpo_cli.data.records import PreparedPrompt

from .logprobs import packed_logprobs
from .packing import pack, whole_rows
from .padded import padded_logprobs
from .policy import Paths, Policy
from .rollout import Rollouts, sample
from .sampling import SamplingSettings

_LEAK = 1e-6
_TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-3, torch.bfloat16: 0.25, torch.float16: 0.1}


def probe(policy: Policy) -> Paths:
    """Compare the fast paths with the plain ones and watch for a completion that sees its neighbour.

    The comparison has the tolerance of the compute dtype; the leak test is exact in every dtype, because a
    neighbour that is masked out changes nothing at all.
    """
    was_training = policy.model.training
    policy.model.eval()
    ungraphed = replace(policy, paths=Paths(graphs=False))
    graphs, graphs_reason = True, None
    try:
        with torch.no_grad():
            packed, packed_reason = _attempt(lambda: _packing_error(policy))
            shared, shared_reason = _attempt(lambda: _prefix_error(ungraphed))
            if shared and policy.device.type == "cuda":
                graphs, graphs_reason = _attempt(lambda: _graphs_error(policy))
    finally:
        policy.model.train(was_training)
        policy.workspace.release()
    reason = packed_reason or shared_reason or graphs_reason
    return Paths(shared, packed, graphs, reason)


def _attempt(measure: Callable[[], str | None]) -> tuple[bool, str | None]:
    """(whether the path is exact, why not)."""
    try:
        reason = measure()
    except (RuntimeError, ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        reason = f"{type(error).__name__}: {str(error).splitlines()[0]}"
    return reason is None, reason


def _packing_error(policy: Policy) -> str | None:
    rollouts = _random_rollouts(policy, seed=0)
    neighbour = rollouts.completion_ids_N_T.clone()
    neighbour[0] = _random_rollouts(policy, seed=1).completion_ids_N_T[0]
    changed = replace(rollouts, completion_ids_N_T=neighbour)
    ours, theirs, other = (
        path(policy, pack(whole_rows(r), r, pad_token_id=policy.tokenizer.pad_token_id), temperature=1.0)
        for path, r in ((packed_logprobs, rollouts), (padded_logprobs, rollouts), (packed_logprobs, changed))
    )
    own = int(rollouts.completion_mask_N_T[0].sum())
    leak = float((ours[own:] - other[own:]).abs().max())
    error = float((ours - theirs).abs().max())
    if not leak <= _LEAK:
        return f"in a packed row, a completion's log-probabilities depend on its neighbour (by {leak:.2g})"
    return _beyond_tolerance("packed log-probabilities", error, policy)


def _prefix_error(policy: Policy) -> str | None:
    prompts = _random_rollouts(policy, seed=2).prompts
    settings = SamplingSettings(num_generations=2, max_completion_tokens=4)
    rollouts = sample(policy, prompts, settings, seed=0)
    packed = pack(whole_rows(rollouts), rollouts, pad_token_id=policy.tokenizer.pad_token_id)
    theirs = padded_logprobs(policy, packed, temperature=1.0).cpu()
    ours = rollouts.sampling_logprobs_N_T[packed.completions_N[packed.row_M], packed.column_M]
    return _beyond_tolerance(
        "log-probabilities over a shared prefix", float((ours - theirs).abs().max()), policy
    )


def _graphs_error(policy: Policy) -> str | None:
    error = _prefix_error(policy)
    return policy.workspace.graphs.failure or (error and f"in CUDA graphs, {error}")


def _beyond_tolerance(what: str, error: float, policy: Policy) -> str | None:
    tolerance = _TOLERANCE[policy.model.get_base_model().dtype]
    return None if error <= tolerance else f"{what} are off by {error:.2g}"


def _random_rollouts(policy: Policy, *, seed: int) -> Rollouts:
    """Two prompts of unequal length with two made-up completions each, of unequal lengths."""
    generator = torch.Generator().manual_seed(seed)
    vocabulary = policy.config.vocab_size
    prompts = tuple(
        PreparedPrompt(f"probe-{length}", "probe", "", tuple(_tokens(length, vocabulary, generator)), {})
        for length in (13, 7)
    )
    lengths_N = torch.tensor([5, 6, 4, 6])
    ids_N_T = torch.tensor([_tokens(6, vocabulary, generator) for _ in lengths_N])
    mask_N_T = torch.arange(6) < lengths_N.unsqueeze(1)
    return Rollouts(
        prompts, 2, ids_N_T, mask_N_T, torch.zeros(4, 6), torch.ones(4, dtype=torch.bool), ("",) * 4
    )


def _tokens(count: int, vocabulary: int, generator: torch.Generator) -> list[int]:
    return torch.randint(vocabulary, (count,), generator=generator).tolist()  # type: ignore[no-any-return]
