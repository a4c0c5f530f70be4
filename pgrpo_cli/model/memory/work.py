"""The largest batches that a recipe can make, and what the run's own code holds for them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace

import torch

from pgrpo_cli.algo.types import Advantages
from pgrpo_cli.data.records import PreparedPrompt
from pgrpo_cli.recipe.schema import Recipe

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
from .meter import Meter
from .shadow import META

ACTIVATIONS, CACHE, COPIES = "activations", "key-value cache", "rollout's copies of weights"
LOGITS, MASK = "logits", "attention mask"


@dataclass(frozen=True)
class Held:
    """Bytes by kind at a computation's peak, weights left out; bytes that it may keep afterwards, and the
    peak of the next computation beside those.
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
        """Tokens of a packed row: the last token of a completion predicts nothing and is left out."""
        return self.prompt_tokens + self.generations * (self.completion_tokens - 1)

    def rollouts(self) -> Rollouts:
        """Rollouts of that shape, on the CPU; what they say is of no interest."""
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


def largest_batch(recipe: Recipe, longest_prompt: int) -> tuple[Batch, bool]:
    """The rollout batch with most tokens, and whether a step has several batches.

    It has as many tokens as the budget allows, in as few prompts as may be.
    """
    G, T = recipe.rollout.num_generations, recipe.rollout.max_completion_tokens
    whole = longest_prompt + G * T
    step = recipe.train.prompts_per_step * whole
    room = max(whole, min(recipe.rollout.batch_budget, step))
    count = math.ceil(room / whole)
    if room // count <= G * T:
        count -= 1
    return Batch(count, min(longest_prompt, room // count - G * T), G, T), step > room


def largest_micro_batch(recipe: Recipe, longest_prompt: int) -> tuple[Batch, bool]:
    """The micro-batch with most tokens, in the longest rows, and whether a step has several micro-batches.

    Real rows differ in length and fill the budget to the last few tokens; here they are equal, and fill it.
    """
    G, T = recipe.rollout.num_generations, recipe.rollout.max_completion_tokens
    budget, inside = recipe.train.micro_batch_budget, T - 1
    generations = G if inside == 0 else min(G, max(1, (budget - longest_prompt) // inside))
    row = longest_prompt + generations * inside
    rows = recipe.train.prompts_per_step * math.ceil(G / generations)
    room = max(row, min(budget, rows * row))
    count = math.ceil(room / row)
    length = room // count
    kept = min(inside, (length - 1) // generations)
    return Batch(count, length - generations * kept, generations, kept + 1), rows * row > room


def update_memory(policy: Policy, recipe: Recipe, batch: Batch) -> Held:
    """Of one micro-batch's forward and backward pass."""
    rollouts = batch.rollouts()
    packed = pack(whole_rows(rollouts), rollouts, pad_token_id=0)
    N, L = len(packed.completions_N), packed.input_ids_R_L.shape[1]
    advantages = Advantages(torch.zeros(N), torch.zeros(N), torch.ones(N), torch.ones(N, dtype=torch.bool))
    policy.model.train()
    checkpointing = recipe.train.gradient_checkpointing
    if checkpointing:
        policy.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    try:
        with _metered(policy, lambda t: MASK if L > 1 and t.shape[-2:] == (L, L) else None) as meter:
            reference_N_T, _ = reference_logprobs(policy, packed, recipe)
            loss = micro_batch_loss(policy, packed, rollouts, advantages, recipe, reference_N_T).loss
            torch.autograd.grad(loss, list(policy.trainable.values()), allow_unused=True)
    finally:
        if checkpointing:
            policy.model.gradient_checkpointing_disable()
    return Held(meter.peak())


@torch.no_grad()
def rollout_memory(policy: Policy, settings: SamplingSettings, batch: Batch) -> Held:
    """Of a rollout of one batch, and of another one after it.

    `policy.device` says where it would run: on a CPU rollouts multiply by copies of the weights; those of a
    GPU depend on its size and are not counted, but its buffers outlive a batch. A model that has no keys to
    share takes the plain path, whose cache holds the prompt once a completion.
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
    """What takes the weights' place in a rollout."""
    if policy.device.type == "cpu":
        return rollout_weights(policy, num_rows=num_rows)
    return lean_adapter(policy.model, policy.model.get_base_model().dtype, policy.workspace.buffers)


def _decode(policy: Policy, settings: SamplingSettings, batch: Batch, meter: Meter) -> None:
    """The first and the last token of a batch, as `decode` makes them."""
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
    with attending_to_shared_prefix(policy.config):
        next_tokens(decode_step(policy, tokens_N, cache, reach=T), uniform_N, settings)


def _decode_plainly(policy: Policy, settings: SamplingSettings, batch: Batch, meter: Meter) -> None:
    """A prefill of every completion's whole sequence, which fills the cache as `generate` does in the end."""
    from transformers import DynamicCache

    policy, N = replace(policy, device=META), batch.count * batch.generations
    ids_N_T = torch.zeros(N, batch.prompt_tokens + batch.completion_tokens, dtype=torch.long, device=META)
    cache = DynamicCache(config=policy.config)
    hidden_N_T_D = policy.decoder(input_ids=ids_N_T, past_key_values=cache, use_cache=True).last_hidden_state
    meter.rename((t for layer in cache.layers for t in vars(layer).values() if torch.is_tensor(t)), CACHE)
    next_tokens(policy.logits(hidden_N_T_D[:, -1]), torch.zeros(N, device=META), settings)


@contextmanager
def _metered(policy: Policy, kind: Callable[[torch.Tensor], str | None]) -> Iterator[Meter]:
    """A meter that knows the model's weights, and logits by their width."""
    vocabulary = policy.config.vocab_size

    def named(tensor: torch.Tensor) -> str | None:
        return LOGITS if tensor.dim() > 1 and tensor.shape[-1] == vocabulary else kind(tensor)

    model = policy.model
    weights = [*model.parameters(), *model.buffers()]
    with Meter(weights, named, label=ACTIVATIONS) as meter, kernels_of_devices():
        yield meter
