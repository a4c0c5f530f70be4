"""What a policy has sampled for a batch of prompts, as rewards, training and the records take it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pgrpo_cli.data.records import PreparedPrompt
from pgrpo_cli.rewards.base import Completion


@dataclass(frozen=True)
class Rollouts:
    """Completions of P prompts, G each, prompt-major (N = P·G), on the CPU.

    `completion_ids_N_T` is padded on the right; `completion_mask_N_T` is True on completion tokens, the
    stop token included; `sampling_logprobs_N_T` are those of the policy that sampled, 0 on padding;
    `finished_N` is True where the completion ended by itself rather than at the limit.
    """

    prompts: tuple[PreparedPrompt, ...]
    num_generations: int
    completion_ids_N_T: torch.Tensor
    completion_mask_N_T: torch.Tensor
    sampling_logprobs_N_T: torch.Tensor
    finished_N: torch.Tensor
    texts_N: tuple[str, ...]

    @property
    def lengths_N(self) -> list[int]:
        """Tokens of each completion."""
        return self.completion_mask_N_T.sum(dim=1).tolist()

    @property
    def preference_groups_N(self) -> list[str]:
        """The preference group of each completion."""
        return [p.preference_group for p in self.prompts for _ in range(self.num_generations)]

    def completions(self) -> list[Completion]:
        """What the rewards see, a completion each."""
        prompts_N = [p for p in self.prompts for _ in range(self.num_generations)]
        return [completion_of(p, text) for p, text in zip(prompts_N, self.texts_N, strict=True)]


def completion_of(prompt: PreparedPrompt, text: str) -> Completion:
    """What the rewards see of an answer to a prompt."""
    return Completion(
        prompt.prompt_id, prompt.preference_group, prompt.prompt, text, prompt.columns, prompt.messages
    )
