"""Log-probabilities without packing: one row per completion, behind a copy of its prompt.

This is the path for architectures that cannot use packed rows. There the state of recurrent and
linear-attention layers would carry over from one completion to the next.
"""

from __future__ import annotations

import torch

from ..policy import Policy
from .logprobs import head_logprobs
from .packing import Packed


def padded_logprobs(policy: Policy, packed: Packed, *, temperature: float) -> torch.Tensor:
    """The same as `logprobs.packed_logprobs`, computed with one row per completion."""
    rows, source = _unpacked(packed)
    # Padding on the right needs no mask: no causal layer, recurrent ones included, reads later tokens.
    ids_N_T = torch.nn.utils.rnn.pad_sequence(
        [torch.tensor(row) for row in rows], batch_first=True, padding_value=policy.tokenizer.pad_token_id
    ).to(policy.device)
    hidden_N_T_D = policy.decoder(input_ids=ids_N_T, use_cache=False).last_hidden_state
    index = torch.tensor([n * ids_N_T.shape[1] + position for n, position in source], device=policy.device)
    hidden_M_D = hidden_N_T_D.flatten(0, 1)[index]
    return head_logprobs(policy, hidden_M_D, packed.target_M.to(policy.device), temperature=temperature)


def _unpacked(packed: Packed) -> tuple[list[list[int]], list[tuple[int, int]]]:
    """The rows [prompt | completion], and (row, position of the token that predicts it) for all M targets."""
    L = packed.input_ids_R_L.shape[1]
    rows: list[list[int]] = []
    source: list[tuple[int, int]] = []
    for n in range(len(packed.completions_N)):
        wanted_M = packed.row_M == n
        first = int(packed.source_M[wanted_M][0])
        r = first // L
        prompt = packed.input_ids_R_L[r][packed.segments_R_L[r] == 0].tolist()
        targets = packed.target_M[wanted_M].tolist()
        rows.append([*prompt, *targets])
        source.extend((n, len(prompt) - 1 + t) for t in range(len(targets)))
    return rows, source
