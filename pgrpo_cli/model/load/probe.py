"""Measures which paths a model can take, by comparing the fast paths with the plain ones on random tokens.

There is no list of supported architectures. Half precision alone cannot decide: in bfloat16 two exact paths
of one model differ by up to 0.3 (SmolLM2) or 0.8 (Gemma 3) in a log-probability, which is as much as a wrong
mask causes. So two things are measured:

1. The architecture, in float32, on a copy of a few layers with random weights (twin.py). There the errors of
   a correct path and of a wrong one differ by orders of magnitude. A window that is longer than the probe's
   rows is short there.
2. The model itself, in its own dtype. Here only the mean difference is compared, with a wide tolerance that
   rounding does not reach but a broken kernel does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from pgrpo_cli.data.records import PreparedPrompt
from pgrpo_cli.pretrained.location import first_line

from ..policy import Paths, Policy
from ..rollout.sample import sample
from ..rollout.sampling import SamplingSettings
from ..rollouts import Rollouts
from ..update.logprobs import packed_logprobs
from ..update.packing import pack, whole_rows
from ..update.padded import padded_logprobs
from .twin import twin

_LEAK = 1e-6
_LARGEST = {torch.float64: 1e-4, torch.float32: 1e-3}
"""The largest difference in a log-probability between two exact paths."""
_MEAN = 1.0
"""The largest mean difference in half precision; beyond it the path is broken for this model, say by a
kernel. Measured for exact paths in NF4 and bfloat16: packed rows up to 0.025 (SmolLM2, 12 seeds) and 0.084
(Gemma 3 270M, 9 seeds), a shared prefix up to 0.31 (Gemma 3). A wrong mask can stay below this limit; the
twin detects it.
"""
_ERRORS = (RuntimeError, ValueError, TypeError, KeyError, IndexError, AttributeError)
"""What the code of a model may raise that cannot take a path."""


def probe(policy: Policy, *, seed: int = 0) -> Paths:
    """Compare the fast paths with the plain ones, and check that completions do not attend to each other.

    For this check the neighbour of a completion is replaced by another one. It is exact in every dtype: if
    the neighbour is masked, the completion's log-probabilities do not change at all.
    """
    was_training = policy.model.training
    policy.model.eval()
    try:
        with torch.no_grad():
            return _measured(policy, seed)
    finally:
        policy.model.train(was_training)
        policy.workspace.release()


def _measured(policy: Policy, seed: int) -> Paths:
    tried, reason = _tried(policy)
    if reason is not None:
        return Paths(shared_prefix=False, packed=False, left_padding=False, reason=reason)
    packed, packed_reason = _attempt(lambda: _first(_packing_error, tried, seed))
    ungraphed = [replace(one, paths=Paths(graphs=False)) for one in tried]
    shared, shared_reason = _attempt(lambda: _first(_prefix_error, ungraphed, seed))
    padding, padding_reason = graphs, graphs_reason = True, None
    if not shared:
        plain = [replace(one, paths=Paths(shared_prefix=False)) for one in tried]
        padding, padding_reason = _attempt(lambda: _first(_left_padding_error, plain, seed))
    elif policy.device.type == "cuda":
        graphs, graphs_reason = _attempt(lambda: _graphs_error(policy, seed))
    reason = packed_reason or shared_reason or padding_reason or graphs_reason
    return Paths(shared, packed, left_padding=padding, graphs=graphs, reason=reason)


@torch.no_grad()
def can_sample(policy: Policy) -> bool:
    """Whether rollouts are right on the policy's paths, in its dtype of rollouts. Layers that do not multiply
    by calling a linear layer (Jamba's) cannot compute in another dtype than that of their weights.
    """
    return _attempt(lambda: _prefix_error(policy, 0))[0]


def _tried(policy: Policy) -> tuple[list[Policy], str | None]:
    """The policy and its twin, and what is missing for a decision if there is no twin."""
    try:
        return [policy, twin(policy)], None
    except _ERRORS as error:
        reason = None if policy.dtype in _LARGEST else f"it has no small copy: {_shown(error)}"
        return [policy], reason


def _first(error: Callable[[Policy, int], str | None], policies: list[Policy], seed: int) -> str | None:
    """The first error that is found among the policies, or None."""
    return next(filter(None, (error(policy, seed) for policy in policies)), None)


def _attempt(measure: Callable[[], str | None]) -> tuple[bool, str | None]:
    """Whether the path is exact, and why not. An exception in the model's code counts as not exact."""
    try:
        reason = measure()
    except _ERRORS as error:
        reason = _shown(error)
    return reason is None, reason


def _shown(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error)}"


def packing_differences(policy: Policy, *, seed: int) -> tuple[torch.Tensor, float]:
    """The log-probabilities of random tokens in packed rows minus those in padded rows, and the largest
    change in a completion's log-probabilities when its neighbour is replaced. The model must be in eval mode.
    """
    rollouts = _random_rollouts(policy, seed=3 * seed)
    neighbour = rollouts.completion_ids_N_T.clone()
    neighbour[0] = _random_rollouts(policy, seed=3 * seed + 1).completion_ids_N_T[0]
    changed = replace(rollouts, completion_ids_N_T=neighbour)
    ours, theirs, other = (
        path(policy, pack(whole_rows(r), r, pad_token_id=policy.tokenizer.pad_token_id), temperature=1.0)
        for path, r in ((packed_logprobs, rollouts), (padded_logprobs, rollouts), (packed_logprobs, changed))
    )
    own = int(rollouts.completion_mask_N_T[0].sum())
    return ours - theirs, float((ours[own:] - other[own:]).abs().max())


def sampling_differences(policy: Policy, *, seed: int) -> torch.Tensor:
    """The log-probabilities of tokens that are sampled on the policy's paths, minus those in padded rows."""
    prompts = _random_rollouts(policy, seed=3 * seed + 2).prompts
    settings = SamplingSettings(num_generations=2, max_completion_tokens=4)
    rollouts = sample(policy, prompts, settings, seed=seed)
    packed = pack(whole_rows(rollouts), rollouts, pad_token_id=policy.tokenizer.pad_token_id)
    theirs = padded_logprobs(policy, packed, temperature=1.0).cpu()
    return rollouts.sampling_logprobs_N_T[packed.completions_N[packed.row_M], packed.column_M] - theirs


def _packing_error(policy: Policy, seed: int) -> str | None:
    differences, leak = packing_differences(policy, seed=seed)
    if not leak <= _LEAK:
        return f"in a packed row, a completion's log-probabilities depend on its neighbour (by {leak:.2g})"
    return _beyond_tolerance("packed log-probabilities", differences, policy)


def _prefix_error(policy: Policy, seed: int) -> str | None:
    differences = sampling_differences(policy, seed=seed)
    return _beyond_tolerance("log-probabilities over a shared prefix", differences, policy)


def _left_padding_error(policy: Policy, seed: int) -> str | None:
    """The two prompts differ in length, so that the shorter one is padded."""
    return _beyond_tolerance(
        "log-probabilities behind padding", sampling_differences(policy, seed=seed), policy
    )


def _graphs_error(policy: Policy, seed: int) -> str | None:
    error = _prefix_error(policy, seed)
    return policy.workspace.graphs.failure or (error and f"in CUDA graphs, {error}")


def _beyond_tolerance(what: str, difference: torch.Tensor, policy: Policy) -> str | None:
    """A message if the difference is too large, else None. NaN is too large as well."""
    dtype, errors = str(policy.dtype).removeprefix("torch."), difference.abs()
    if policy.dtype in _LARGEST:
        largest = float(errors.max())
        return None if largest <= _LARGEST[policy.dtype] else f"{what} are off by {largest:.2g} in {dtype}"
    mean = float(errors.mean())
    return None if mean <= _MEAN else f"{what} are off by {mean:.2g} in the mean in {dtype}"


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
