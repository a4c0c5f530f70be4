"""The largest batches that a recipe can make, and the memory that the code of the run needs for them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace

import torch

from pgrpo_cli.algo.types import Advantages
from pgrpo_cli.data.records import PreparedPrompt
from pgrpo_cli.recipe.training import LossSection, RolloutSection, TrainSection

from ..policy import Policy
from ..rollout.buffers import Buffers
from ..rollout.cpu_weights import rollout_weights
from ..rollout.decode import decode_step, prefill
from ..rollout.lean import lean_adapter
from ..rollout.rounding import COARSE, EXACT
from ..rollout.sampling import SamplingSettings, next_tokens
from ..rollout.shared_prefix import attending_to_shared_prefix
from ..rollout.workspace import Workspace
from ..rollouts import Rollouts
from ..update.packing import pack, whole_rows
from ..update.policy_update import micro_batch_loss, reference_logprobs
from .kernels import kernels_of_devices
from .meta_policy import META
from .meter import Meter

ACTIVATIONS, CACHE, COPIES = "activations", "key-value cache", "rollout's copies of weights"
LOGITS, MASK = "logits", "attention mask"


@dataclass(frozen=True)
class Held:
    """The memory of a computation, without the weights.

    `peak`: bytes by kind at its peak. `kept`: bytes that it may keep afterwards. `next_peak`: the peak of the
    next computation while these are kept.
    """

    peak: Counter[str]
    kept: int = 0
    next_peak: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Batch:
    """`count` prompts of `prompt_tokens` tokens, `generations` completions of `completion_tokens` each."""

    count: int
    prompt_tokens: int
    generations: int
    completion_tokens: int

    @property
    def row_tokens(self) -> int:
        """Tokens of a packed row, which does not contain the last token of each completion (see packing)."""
        return self.prompt_tokens + self.generations * (self.completion_tokens - 1)

    def rollouts(self) -> Rollouts:
        """Rollouts of that shape, on the CPU, with arbitrary contents."""
        N, T = self.count * self.generations, self.completion_tokens
        prompts = [PreparedPrompt(str(i), "", "", (0,) * self.prompt_tokens) for i in range(self.count)]
        return Rollouts(
            tuple(prompts),
            self.generations,
            torch.zeros(N, T, dtype=torch.long),
            torch.ones(N, T, dtype=torch.bool),
            torch.zeros(N, T),
            torch.ones(N, dtype=torch.bool),
            ("",) * N,
        )


def largest_batch(rollout: RolloutSection, prompts_per_step: int, longest_prompt: int) -> tuple[Batch, bool]:
    """The rollout batch with the most tokens, and whether a step has several batches.

    It has as many tokens as the budget allows, in as few prompts as possible.
    """
    G, T = rollout.num_generations, rollout.max_completion_tokens
    whole = longest_prompt + G * T
    step = prompts_per_step * whole
    room = max(whole, min(rollout.batch_budget, step))
    count = math.ceil(room / whole)
    if room // count <= G * T:
        count -= 1
    return Batch(count, min(longest_prompt, room // count - G * T), G, T), step > room


def largest_micro_batch(
    rollout: RolloutSection, train: TrainSection, longest_prompt: int
) -> tuple[Batch, bool]:
    """The micro-batch with the most tokens, in the longest rows, and whether a step has several
    micro-batches.

    Real rows differ in length and fill the budget up to a few tokens. Here they have equal lengths and fill
    it exactly.
    """
    G, T = rollout.num_generations, rollout.max_completion_tokens
    budget, inside = train.micro_batch_budget, T - 1
    generations = G if inside == 0 else min(G, max(1, (budget - longest_prompt) // inside))
    row = longest_prompt + generations * inside
    rows = train.prompts_per_step * math.ceil(G / generations)
    room = max(row, min(budget, rows * row))
    count = math.ceil(room / row)
    length = room // count
    kept = min(inside, (length - 1) // generations)
    return Batch(count, length - generations * kept, generations, kept + 1), rows * row > room


def update_memory(
    policy: Policy, loss: LossSection, rollout: RolloutSection, batch: Batch, *, checkpointing: bool
) -> Held:
    """The memory of the forward and backward pass of one micro-batch."""
    rollouts = batch.rollouts()
    packed = pack(whole_rows(rollouts), rollouts, pad_token_id=0)
    N, L = len(packed.completions_N), packed.input_ids_R_L.shape[1]
    none_N = torch.zeros(N, dtype=torch.bool)
    advantages = Advantages(torch.zeros(N), none_N, torch.zeros(N), torch.ones(N), ~none_N)
    policy.train()
    if checkpointing:
        policy.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    try:
        with _metered(policy, lambda t: MASK if L > 1 and t.shape[-2:] == (L, L) else None) as meter:
            reference_N_T, _ = reference_logprobs(
                policy, packed, beta=loss.beta, temperature=rollout.temperature
            )
            share = micro_batch_loss(policy, packed, rollouts, advantages, loss, rollout, reference_N_T)
            torch.autograd.grad(share.loss, list(policy.trainable.values()), allow_unused=True)
    finally:
        if checkpointing:
            policy.model.gradient_checkpointing_disable()
    return Held(meter.peak())


@torch.no_grad()
def rollout_memory(policy: Policy, settings: SamplingSettings, batch: Batch) -> Held:
    """The memory of a rollout of one batch, and of another one after it.

    `policy.device` is the device that is planned for. On a CPU rollouts multiply by copies of the weights,
    which are counted. On a GPU the copies depend on the memory of the GPU and are not counted, but its
    buffers remain after a batch. A model without keys to share takes the path without a shared prefix, whose
    cache holds one copy of the prompt per completion.
    """
    policy = replace(policy, workspace=Workspace())
    policy.model.eval()
    keys = (batch.count, getattr(policy.config, "num_key_value_heads", None), batch.prompt_tokens)
    decode = _decode if policy.paths.shared_prefix else _decode_plainly
    with _metered(policy, lambda t: CACHE if t.dim() == 4 and t.shape[:3] == keys else None) as meter:
        meter.label = COPIES
        with _weights_of(policy, num_rows=batch.count * batch.generations):
            meter.label = ACTIVATIONS
            decode(policy, settings, batch, meter)
            peak = meter.peak()
            decode(policy, settings, batch, meter)
    return Held(peak, policy.workspace.bytes(), meter.peak())


def _weights_of(policy: Policy, *, num_rows: int) -> AbstractContextManager[None]:
    """The context in which a rollout replaces the weights of layers."""
    if policy.device.type == "cpu":
        return rollout_weights(policy, num_rows=num_rows)
    return lean_adapter(policy.model, policy.model.get_base_model().dtype, policy.workspace.buffers)


def _decode(policy: Policy, settings: SamplingSettings, batch: Batch, meter: Meter) -> None:
    """The same computation as `decode` for the first and the last token of a batch."""
    on_cuda = policy.device.type == "cuda"
    policy = replace(policy, device=META)
    T, N = batch.completion_tokens, batch.count * batch.generations
    uniform_N = torch.zeros(N, device=META)
    logits_P_V, cache = prefill(
        policy,
        batch.rollouts().prompts,
        num_generations=batch.generations,
        capacity=T,
        rounding=COARSE if on_cuda else EXACT,
        buffers=policy.workspace.buffers if on_cuda else Buffers(),
    )
    meter.rename((*cache.prefix_keys, *cache.prefix_values, *cache.keys, *cache.values), CACHE)
    tokens_N, _ = next_tokens(logits_P_V.repeat_interleave(batch.generations, dim=0), uniform_N, settings)
    del logits_P_V
    with attending_to_shared_prefix(policy.config, cache):
        next_tokens(decode_step(policy, tokens_N, cache, reach=T), uniform_N, settings)


def _decode_plainly(policy: Policy, settings: SamplingSettings, batch: Batch, meter: Meter) -> None:
    """One prefill of all whole sequences, which fills the cache as much as `generate` does at its end."""
    from transformers import DynamicCache

    policy, N = replace(policy, device=META), batch.count * batch.generations
    ids_N_T = torch.zeros(N, batch.prompt_tokens + batch.completion_tokens, dtype=torch.long, device=META)
    cache = DynamicCache(config=policy.config)
    hidden_N_T_D = policy.decoder(input_ids=ids_N_T, past_key_values=cache, use_cache=True).last_hidden_state
    meter.rename((t for layer in cache.layers for t in vars(layer).values() if torch.is_tensor(t)), CACHE)
    next_tokens(policy.logits(hidden_N_T_D[:, -1]), torch.zeros(N, device=META), settings)


@contextmanager
def _metered(policy: Policy, kind: Callable[[torch.Tensor], str | None]) -> Iterator[Meter]:
    """A meter that does not count the model's weights, and recognises logits by their last dimension."""
    vocabulary = policy.config.vocab_size

    def named(tensor: torch.Tensor) -> str | None:
        return LOGITS if tensor.dim() > 1 and tensor.shape[-1] == vocabulary else kind(tensor)

    model = policy.model
    weights = [*model.parameters(), *model.buffers()]
    with Meter(weights, named, label=ACTIVATIONS) as meter, kernels_of_devices():
        yield meter
