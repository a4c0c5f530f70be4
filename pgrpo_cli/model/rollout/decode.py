"""Decoding over shared prefixes: one step per token, over tensors with fixed addresses.

A step feeds the newest token of every row, draws the next token and records it. All of this happens on the
device, without host synchronisation. The host reads the record every `check_every` steps to find the
completions that have finished.

Every completion has one line in the record and one line of uniform numbers. A row of the batch only stores
the index of its line. So finished rows can be dropped from the batch without moving what has been recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch

from pgrpo_cli.data.records import PreparedPrompt

from ..policy import Policy
from .buffers import Buffers
from .rounding import COARSE, EXACT, KeptRows, Rounding
from .sampling import SamplingSettings, next_tokens
from .shared_prefix import PrefillCache, SharedPrefixCache, attending_to_shared_prefix
from .workspace import Workspace, run_eagerly


def decode_on(policy: Policy) -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    """`decode` with the options that are fastest on the policy's device."""
    if policy.device.type != "cuda":
        return decode
    return partial(decode, rounding=COARSE, workspace=policy.workspace if policy.paths.graphs else None)


def decode(
    policy: Policy,
    prompts: Sequence[PreparedPrompt],
    settings: SamplingSettings,
    uniform_N_T: torch.Tensor,
    *,
    rounding: Rounding = EXACT,
    workspace: Workspace | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and log-probabilities [N, T] of one batch, on the CPU. Entries after a stop token are
    meaningless.

    `rounding` and `workspace` change the speed, not the tokens that are drawn. Without a workspace, memory is
    newly allocated and no CUDA graphs are used.
    """
    G, T = settings.num_generations, settings.max_completion_tokens
    stop_ids = torch.tensor(policy.stop_token_ids)
    buffers = workspace.buffers if workspace else Buffers()
    logits_P_V, cache = prefill(
        policy, prompts, num_generations=G, capacity=T, rounding=rounding, buffers=buffers
    )
    batch = _Batch(policy, cache, settings, uniform_N_T, buffers)
    batch.draw(logits_P_V.repeat_interleave(G, dim=0))
    run = workspace.runner(policy.model, settings) if workspace else run_eagerly
    # [P, V] in float32 is large, and its memory is needed by the steps.
    del logits_P_V

    finished_N = torch.zeros(len(uniform_N_T), dtype=torch.bool)
    looked_at = 0
    with attending_to_shared_prefix(policy.config, cache):
        for drawn in range(1, T):
            if drawn % rounding.check_every == 0:
                finished_N |= torch.isin(batch.record(looked_at, drawn), stop_ids).any(dim=1)
                looked_at = drawn
                if finished_N.all():
                    break
                batch.shrink(finished_N, stored=drawn - 1, rounding=rounding)
            reach = rounding.own_length(drawn, T)
            run(batch.key(reach), partial(batch.step, reach))
    return batch.ids_N_T.to("cpu", copy=True), batch.logprobs_N_T.to("cpu", copy=True)


class _Batch:
    """The rows that are being decoded. Row m writes to line `completions_M[m]` of the record. Padding rows
    write to an extra line at the end of the record, which is discarded.
    """

    def __init__(
        self,
        policy: Policy,
        cache: SharedPrefixCache,
        settings: SamplingSettings,
        uniform_N_T: torch.Tensor,
        buffers: Buffers,
    ) -> None:
        self._policy, self._cache, self._settings, self._buffers = policy, cache, settings, buffers
        self._N, self._T = uniform_N_T.shape
        size, like = (self._N + 1) * self._T, cache.stored_1
        self._ids = buffers.empty("ids", (size,), like).zero_()
        self._logprobs = buffers.empty("logprobs", (size,), torch.zeros(0, device=like.device)).zero_()
        uniform = torch.nn.functional.pad(uniform_N_T, (0, 0, 0, 1)).flatten()
        self._uniform = buffers.store("uniform", uniform.to(like.device))
        self._tokens_M = buffers.empty("tokens", (self._N,), like)
        self._point(list(range(self._N)))

    def _point(self, completions_M: list[int]) -> None:
        self._completions_M = completions_M
        lines = torch.tensor(completions_M, device=self._ids.device)
        self._lines_M = self._buffers.store("lines", lines * self._T)

    def key(self, reach: int) -> tuple[object, ...]:
        """Identifies a step for CUDA graphs: steps with equal keys run the same kernels with equal shapes."""
        cache = self._cache
        return (self._N, len(self._completions_M), cache.num_prompts, cache.prefix_length, reach)

    def step(self, reach: int) -> None:
        """Feed the newest tokens, draw the next ones and record them."""
        self.draw(decode_step(self._policy, self._tokens_M, self._cache, reach))

    def draw(self, logits_M_V: torch.Tensor) -> None:
        """Draw one token per row and record it."""
        # The record is flat, [(N + 1)·T]: start of the row's line plus the number of tokens drawn so far.
        # That number is read on the device, since a number from the host would be frozen in a captured graph.
        place_M = self._lines_M + self._cache.stored_1
        uniform_M = self._uniform.index_select(0, place_M)
        tokens_M, logprobs_M = next_tokens(logits_M_V, uniform_M, self._settings)
        self._tokens_M.copy_(tokens_M)
        self._ids.index_copy_(0, place_M, tokens_M)
        self._logprobs.index_copy_(0, place_M, logprobs_M)

    def shrink(self, finished_N: torch.Tensor, *, stored: int, rounding: Rounding) -> None:
        """Drop finished rows if enough rows have finished (see `Rounding.kept_rows`)."""
        # The last entry stands for the padding rows, whose completion index is N.
        finished = [*finished_N.tolist(), True]
        going_on_M = [not finished[n] for n in self._completions_M]
        kept = rounding.kept_rows(self._cache.places_M, going_on_M, self._settings.num_generations)
        if kept is not None:
            self._cache.keep(kept, stored)
            self._keep(kept)

    def _keep(self, kept: KeptRows) -> None:
        rows = torch.tensor(kept.rows, device=self._tokens_M.device)
        self._tokens_M = self._buffers.store("tokens", self._tokens_M[rows])
        completions_M = [self._completions_M[row] for row in kept.rows]
        real = len(completions_M) - kept.padding_rows
        self._point(completions_M[:real] + [self._N] * kept.padding_rows)

    def record(self, start: int, end: int) -> torch.Tensor:
        """Columns [start, end) of the token ids, [N, end - start] on the CPU. This synchronises with the
        device.
        """
        return self.ids_N_T[:, start:end].cpu()

    @property
    def ids_N_T(self) -> torch.Tensor:
        """Token ids of every completion."""
        return self._ids.view(-1, self._T)[: self._N]

    @property
    def logprobs_N_T(self) -> torch.Tensor:
        """Log-probabilities of the recorded tokens."""
        return self._logprobs.view(-1, self._T)[: self._N]


def prefill(
    policy: Policy,
    prompts: Sequence[PreparedPrompt],
    *,
    num_generations: int,
    capacity: int,
    rounding: Rounding = EXACT,
    buffers: Buffers | None = None,
) -> tuple[torch.Tensor, SharedPrefixCache]:
    """Run P prompts once. Returns the logits after the last token of each prompt [P, V], and the cache that
    the completions of a prompt share.

    Prompts are padded on the right. Under the causal mask no prompt token attends to the padding there, so no
    attention mask is needed.
    """
    lengths_P = torch.tensor([len(prompt.input_ids) for prompt in prompts], device=policy.device)
    ids_P_T = torch.nn.utils.rnn.pad_sequence(
        [torch.tensor(prompt.input_ids) for prompt in prompts],
        batch_first=True,
        padding_value=policy.tokenizer.pad_token_id,
    ).to(policy.device)
    mask_P_T = torch.arange(ids_P_T.shape[1], device=policy.device) < lengths_P.unsqueeze(1)
    cache = PrefillCache(rounding.prefix_length(ids_P_T.shape[1]), buffers or Buffers())
    hidden_P_T_D = policy.decoder(input_ids=ids_P_T, past_key_values=cache, use_cache=True).last_hidden_state
    last_P_D = hidden_P_T_D[torch.arange(len(prompts), device=policy.device), lengths_P - 1]
    shared = SharedPrefixCache(
        cache, mask_P_T, num_generations=num_generations, capacity=capacity, rounding=rounding
    )
    return policy.logits(last_P_D), shared


def decode_step(policy: Policy, tokens_M: torch.Tensor, cache: SharedPrefixCache, reach: int) -> torch.Tensor:
    """Feed one token per row and return the logits of the next one [M, V].

    `reach`: how many columns of the completions' own keys to attend to, more than are stored. Must be called
    within `attending_to_shared_prefix`.
    """
    cache.begin(reach)
    # transformers builds no mask of its own if it is given one with four dimensions. The values are not used:
    # `shared_prefix_attention` takes its mask from the cache.
    mask = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=policy.device)
    hidden_M_1_D = policy.decoder(
        input_ids=tokens_M.unsqueeze(1),
        position_ids=cache.positions_M_1(),
        attention_mask=mask,
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state
    cache.advance()
    return policy.logits(hidden_M_1_D[:, 0])
