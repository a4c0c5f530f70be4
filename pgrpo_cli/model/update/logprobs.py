"""Log-probabilities of completions under the policy, with gradients.

Rows are packed, and logits are computed at completion tokens only.
"""

from __future__ import annotations

from typing import Any

import torch

from ..policy import Policy
from .packing import Packed, attention_mask


def packed_logprobs(policy: Policy, packed: Packed, *, temperature: float) -> torch.Tensor:
    """log softmax(logits / temperature) of the micro-batch's completion tokens, float32 [M]."""
    hidden_R_L_D = policy.decoder(
        input_ids=packed.input_ids_R_L.to(policy.device),
        position_ids=packed.position_ids_R_L.to(policy.device),
        attention_mask=attention_mask(packed, policy.config, policy.dtype, policy.device),
        use_cache=False,
    ).last_hidden_state
    hidden_M_D = hidden_R_L_D.flatten(0, 1)[packed.source_M.to(policy.device)]
    return head_logprobs(policy, hidden_M_D, packed.target_M.to(policy.device), temperature=temperature)


def scatter(values_M: torch.Tensor, packed: Packed) -> torch.Tensor:
    """Put one value per completion token into its place in [N, T]; all other entries are 0."""
    T = int(packed.column_M.max()) + 1
    place = packed.row_M.to(values_M.device), packed.column_M.to(values_M.device)
    return values_M.new_zeros(len(packed.completions_N), T).index_put(place, values_M)


def head_logprobs(
    policy: Policy, hidden_M_D: torch.Tensor, target_M: torch.Tensor, *, temperature: float
) -> torch.Tensor:
    """log softmax(logits / temperature) of the targets, float32 [M]. Logits are computed chunk by chunk."""
    head = policy.model.get_base_model().get_output_embeddings()
    # softmax(scale · logits / temperature)
    temperature /= policy.logit_scale
    return _HeadLogprobs.apply(  # type: ignore[no-any-return]
        hidden_M_D, head.weight, head.bias, target_M, temperature, policy.logit_cap, policy.head_chunk
    )


class _HeadLogprobs(torch.autograd.Function):
    """Output layer, log-softmax and selection of the target in one operation, for a frozen output layer.

    The derivative of log p(target) with respect to the hidden state is (W[target] - p·W) / temperature. The
    backward pass only multiplies it by one number per row, the incoming gradient. So the derivative is
    computed in the forward pass, while the logits of the chunk exist. Then [M, D] is saved instead of [M, V],
    and no logits are computed a second time.

    Reading and writing the logits takes as long as computing them. Therefore they are turned into
    probabilities in place, and factors that are constant in a row are applied to [M, D] instead.
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
        rows: int,
    ) -> torch.Tensor:
        # At least float32; float64 stays float64.
        accumulate = torch.promote_types(hidden_M_D.dtype, torch.float32)
        logprobs_M = torch.empty(len(hidden_M_D), dtype=accumulate, device=hidden_M_D.device)
        derivative_M_D = torch.empty_like(hidden_M_D) if ctx.needs_input_grad[0] else None
        for start in range(0, len(hidden_M_D), rows):
            chunk = slice(start, start + rows)
            _fill_chunk(
                logprobs_M[chunk],
                None if derivative_M_D is None else derivative_M_D[chunk],
                hidden_M_D[chunk],
                weight_V_D,
                bias_V,
                target_M[chunk],
                temperature,
                cap,
            )
        ctx.save_for_backward(derivative_M_D)
        return logprobs_M

    @staticmethod
    def backward(ctx: Any, grad_M: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (derivative_M_D,) = ctx.saved_tensors
        gradient = grad_M.unsqueeze(-1).to(derivative_M_D.dtype) * derivative_M_D
        return gradient, None, None, None, None, None, None


def _fill_chunk(
    logprobs_C: torch.Tensor,
    derivative_C_D: torch.Tensor | None,
    hidden_C_D: torch.Tensor,
    weight_V_D: torch.Tensor,
    bias_V: torch.Tensor | None,
    target_C: torch.Tensor,
    temperature: float,
    cap: float | None,
) -> None:
    """Compute the log-probabilities of a chunk into `logprobs_C`, and their derivatives with respect to the
    hidden states into `derivative_C_D` (None: not needed).

    This is a function of its own so that the logits of a chunk are released before the next chunk begins.
    """
    target_C_1 = target_C.unsqueeze(-1)
    logits_C_V = torch.nn.functional.linear(hidden_C_D, weight_V_D, bias_V).to(logprobs_C.dtype)
    slope_C_V = _cap_(logits_C_V, cap)
    if temperature != 1.0:
        logits_C_V /= temperature
    chosen_C_1 = logits_C_V.gather(-1, target_C_1)
    largest_C_1 = logits_C_V.amax(dim=-1, keepdim=True)
    # Unnormalised probabilities, in the memory of the logits. The division by their sum follows on [C, D].
    weights_C_V = logits_C_V.sub_(largest_C_1).exp_()
    total_C_1 = weights_C_V.sum(dim=-1, keepdim=True)
    logprobs_C.copy_((chosen_C_1 - largest_C_1 - total_C_1.log()).squeeze(-1))
    if derivative_C_D is None:
        return
    # W[target] - p·W; with soft-capping each logit's row of W is multiplied by the slope of the cap.
    target_C_D = weight_V_D[target_C].to(logprobs_C.dtype)
    if slope_C_V is not None:
        weights_C_V *= slope_C_V
        target_C_D *= slope_C_V.gather(-1, target_C_1)
    mean_C_D = (weights_C_V.to(weight_V_D.dtype) @ weight_V_D).to(logprobs_C.dtype) / total_C_1
    derivative_C_D.copy_((target_C_D - mean_C_D) / temperature)


def _cap_(logits_C_V: torch.Tensor, cap: float | None) -> torch.Tensor | None:
    """Soft-cap logits in place, to cap·tanh(logits / cap), and return the derivative of the cap (or None)."""
    if cap is None:
        return None
    logits_C_V.div_(cap).tanh_()
    slope_C_V = 1 - logits_C_V.square()
    logits_C_V.mul_(cap)
    return slope_C_V
