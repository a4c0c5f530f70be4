"""Log-probabilities of completions under the policy, with gradients: packed rows, logits where they are
needed.
"""

from __future__ import annotations

from typing import Any

import torch

from .packing import Packed, attention_mask
from .policy import Policy

_HEAD_CHUNK = 256
"""Tokens whose logits exist at a time."""


def packed_logprobs(policy: Policy, packed: Packed, *, temperature: float) -> torch.Tensor:
    """log softmax(logits / temperature) of the micro-batch's completion tokens, float32 [M]."""
    dtype = policy.model.get_base_model().dtype
    hidden_R_L_D = policy.decoder(
        input_ids=packed.input_ids_R_L.to(policy.device),
        position_ids=packed.position_ids_R_L.to(policy.device),
        attention_mask=attention_mask(packed, policy.config, dtype, policy.device),
        use_cache=False,
    ).last_hidden_state
    hidden_M_D = hidden_R_L_D.flatten(0, 1)[packed.source_M.to(policy.device)]
    return head_logprobs(policy, hidden_M_D, packed.target_M.to(policy.device), temperature=temperature)


def scatter(values_M: torch.Tensor, packed: Packed) -> torch.Tensor:
    """Put a value for each completion token into its place in [N, T]; 0 elsewhere."""
    T = int(packed.column_M.max()) + 1
    place = packed.row_M.to(values_M.device), packed.column_M.to(values_M.device)
    return values_M.new_zeros(len(packed.completions_N), T).index_put(place, values_M)


def head_logprobs(
    policy: Policy, hidden_M_D: torch.Tensor, target_M: torch.Tensor, *, temperature: float
) -> torch.Tensor:
    """log softmax(logits / temperature) at the targets, float32 [M], a chunk of logits at a time."""
    head = policy.model.get_base_model().get_output_embeddings()
    cap = getattr(policy.config, "final_logit_softcapping", None)
    return _HeadLogprobs.apply(hidden_M_D, head.weight, head.bias, target_M, temperature, cap)  # type: ignore[no-any-return]


class _HeadLogprobs(torch.autograd.Function):
    """Output layer, softmax and selection in one, for a frozen output layer.

    The derivative of log p(target) by the hidden state, (e_target - p)·W / temperature, needs nothing from
    above but one number a row. It is therefore computed while the chunk's logits exist, and no logits are
    kept or
    computed again: [M, D] is saved instead of [M, V].
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_M_D: torch.Tensor,
        weight_V_D: torch.Tensor,
        bias_V: torch.Tensor | None,
        target_M: torch.Tensor,
        temperature: float,
        cap: float | None,
    ) -> torch.Tensor:
        needs_gradient = ctx.needs_input_grad[0]
        accumulate = torch.promote_types(hidden_M_D.dtype, torch.float32)
        logprobs_M = torch.empty(len(hidden_M_D), dtype=accumulate, device=hidden_M_D.device)
        derivative_M_D = torch.empty_like(hidden_M_D) if needs_gradient else None
        for start in range(0, len(hidden_M_D), _HEAD_CHUNK):
            chunk = slice(start, start + _HEAD_CHUNK)
            logits_C_V = torch.nn.functional.linear(hidden_M_D[chunk], weight_V_D, bias_V).to(accumulate)
            if cap is not None:
                logits_C_V = cap * torch.tanh(logits_C_V / cap)
            capped_C_V = logits_C_V
            logits_C_V = logits_C_V / temperature if temperature != 1.0 else logits_C_V
            total_C_1 = torch.logsumexp(logits_C_V, dim=-1, keepdim=True)
            target_C_1 = target_M[chunk].unsqueeze(-1)
            logprobs_M[chunk] = (logits_C_V.gather(-1, target_C_1) - total_C_1).squeeze(-1)
            if derivative_M_D is None:
                continue
            minus_p_C_V = torch.exp(logits_C_V - total_C_1).neg_()
            minus_p_C_V.scatter_add_(-1, target_C_1, torch.ones_like(total_C_1))
            if cap is not None:
                minus_p_C_V *= 1 - (capped_C_V / cap) ** 2
            derivative_M_D[chunk] = (minus_p_C_V / temperature).to(weight_V_D.dtype) @ weight_V_D
        ctx.save_for_backward(derivative_M_D)
        return logprobs_M

    @staticmethod
    def backward(ctx: Any, grad_M: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (derivative_M_D,) = ctx.saved_tensors
        gradient = grad_M.unsqueeze(-1).to(derivative_M_D.dtype) * derivative_M_D
        return gradient, None, None, None, None, None
