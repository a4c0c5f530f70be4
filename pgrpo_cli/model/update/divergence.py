"""How far a model with its adapter is from the base model: KL on its own completions, and the perplexity of a
text that neither of them wrote.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from importlib.resources import files

import torch

from pgrpo_cli.pretrained.memory import is_out_of_memory

from ..oom import Piece, TokenBudget, in_pieces
from ..policy import Policy
from ..rollouts import Rollouts
from .logprobs import head_logprobs
from .packing import Row as PackedRow
from .packing import micro_batches, pack
from .policy_update import completion_logprobs

_WINDOW = 512
_REMEDY = "Lower train.tokens_per_micro_batch, or use a smaller model; `pgrpo plan` says what fits."


def divergence_budget(tokens: int) -> TokenBudget:
    """Tokens per forward pass. Lowering the budget gives no note, since the results do not change."""
    return TokenBudget(tokens, "passes", _REMEDY, lambda text: None)


@torch.no_grad()
def completion_kl(
    policy: Policy, rollouts: Rollouts, *, temperature: float, budget: TokenBudget
) -> list[float]:
    """An estimate of KL(policy || base) per token, in nats, for each of the N completions of the policy.

    It is the mean over the tokens of exp(d) - d - 1 with d = log π_base - log π (Schulman's k3, the same as
    `kl` in metrics.jsonl). It is never negative, and 0 for equal models. Both log-probabilities are computed
    here; those of the sampler are not used, since it may have another precision.
    """
    was_training = policy.model.training
    policy.model.eval()
    kl_N = torch.zeros(len(rollouts.texts_N), dtype=torch.float64)

    def compute(rows: list[PackedRow]) -> tuple[torch.Tensor, torch.Tensor]:
        packed = pack(rows, rollouts, pad_token_id=policy.tokenizer.pad_token_id)
        own = completion_logprobs(policy, packed, temperature=temperature)
        with policy.base():
            base = completion_logprobs(policy, packed, temperature=temperature)
        d_N_T = (base.double() - own.double()).cpu()
        # Padding is 0 in both: exp(0) - 0 - 1 = 0.
        return packed.completions_N, (d_N_T.expm1() - d_N_T).sum(dim=1)

    cut = partial(_cut, rollouts)
    everything = range(len(rollouts.texts_N))
    for places_N, sums_N in in_pieces(everything, cut, compute, budget):
        kl_N[places_N] = sums_N
    policy.model.train(was_training)
    return (kl_N / torch.tensor(rollouts.lengths_N, dtype=torch.float64)).tolist()


@torch.no_grad()
def perplexity(policy: Policy, text: str) -> float:
    """exp of the mean negative log-likelihood per token of `text`, in windows of at most 512 tokens.

    The first token of each window has no context and is not counted. NaN if no window fits into memory, or if
    the text has a single token.
    """
    was_training = policy.model.training
    policy.model.eval()
    ids = policy.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    window = min(_WINDOW, getattr(policy.config, "max_position_embeddings", None) or _WINDOW)
    losses: list[float] = []
    for start in range(0, len(ids), window):
        ids_1_L = torch.tensor([ids[start : start + window]], device=policy.device)
        try:
            losses += (-_logprobs(policy, ids_1_L)).tolist() if ids_1_L.shape[1] > 1 else []
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            losses = []
            break
    policy.model.train(was_training)
    return math.exp(math.fsum(losses) / len(losses)) if losses else math.nan


def _logprobs(policy: Policy, ids_1_L: torch.Tensor) -> torch.Tensor:
    """The log-probability of every token but the first, [L - 1]."""
    hidden_1_L_D = policy.decoder(input_ids=ids_1_L, use_cache=False).last_hidden_state
    return head_logprobs(policy, hidden_1_L_D[0, :-1], ids_1_L[0, 1:], temperature=1.0)


@lru_cache(maxsize=1)
def neutral_text() -> str:
    """The text for `perplexity`: plain English prose that was written for this program, from no data set."""
    return (files("pgrpo_cli.model") / "neutral.txt").read_text(encoding="utf-8")


def _cut(rollouts: Rollouts, completions: Sequence[int], tokens: int) -> Iterator[Piece[list[PackedRow]]]:
    for rows in micro_batches(rollouts, tokens, completions):
        inside = [n for row in rows for n in row.completions]
        yield Piece(rows, inside, len(rows) * max(row.length for row in rows))
