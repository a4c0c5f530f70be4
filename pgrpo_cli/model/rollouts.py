"""The completions that a policy has sampled for a batch of prompts, for rewards, training and records."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pgrpo_cli.data.records import PreparedPrompt, completion_of
from pgrpo_cli.rewards.base import Completion


@dataclass(frozen=True)
class Rollouts:
    """Completions of P prompts, G each, prompt-major (N = P·G), on the CPU.

    `completion_ids_N_T` is padded on the right. `completion_mask_N_T` is True on completion tokens, the stop
    token included. `sampling_logprobs_N_T` are the log-probabilities under the policy that sampled the
    tokens, and 0 on padding. `finished_N` is True where a completion ended with a stop token, and False where
    it was cut off at `max_completion_tokens`.
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
        """Number of tokens of each completion."""
        return self.completion_mask_N_T.sum(dim=1).tolist()

    @property
    def preference_groups_N(self) -> list[str]:
        """The preference group of each completion."""
        return [p.preference_group for p in self.prompts for _ in range(self.num_generations)]

    def completions(self) -> list[Completion]:
        """The N completions, in the form in which rewards read them."""
        prompts_N = [p for p in self.prompts for _ in range(self.num_generations)]
        return [completion_of(p, text) for p, text in zip(prompts_N, self.texts_N, strict=True)]
