"""What the run itself answers to some of its held-out prompts: what every export is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from pgrpo_cli.data.prepared import load_prepared
from pgrpo_cli.data.records import PreparedPrompt
from pgrpo_cli.errors import ExportError
from pgrpo_cli.eval.targets import EvalTarget
from pgrpo_cli.model.load.base_model import load_tokenizer
from pgrpo_cli.model.policy import Policy
from pgrpo_cli.model.rollout.cpu_weights import rollout_weights
from pgrpo_cli.model.rollout.sample import sample
from pgrpo_cli.model.rollout.sampling import SamplingSettings
from pgrpo_cli.pretrained.chat import Chat

PROMPTS = 8
TOKENS = 32
"""The most prompts that are compared, and the most tokens of an answer to one."""


@dataclass(frozen=True)
class Read:
    """How a model reads one answer of the run: the log-probability of each of its tokens, and the token that
    the model itself holds likeliest there.
    """

    logprobs: Sequence[float]
    likeliest: Sequence[int]


@dataclass(frozen=True)
class Answer:
    """The likeliest answer of the run to a prompt, as tokens; `finished`: the last of them ends it."""

    prompt: PreparedPrompt
    tokens: Sequence[int]
    finished: bool
    own: Read
    base: Read = field(repr=False)
    """As the run's base model reads it, without the adapter."""


@torch.no_grad()
def reference(target: EvalTarget, policy: Policy) -> list[Answer]:
    """The run's answers to prompts of all its preference groups. Raises ExportError without prompts."""
    prompts = _chosen(load_prepared(target.run.path, "eval") or load_prepared(target.run.path, "train"))
    if not prompts:
        raise ExportError(
            f"{target.run.path} has no prompts to compare answers on", remedy="Run `pgrpo prepare` again."
        )
    tokens = min(TOKENS, target.recipe.rollout.max_completion_tokens)
    rollouts = sample(policy, prompts, SamplingSettings(1, tokens, greedy=True), seed=target.recipe.seed)
    answers = [
        rollouts.completion_ids_N_T[n, :length].tolist() for n, length in enumerate(rollouts.lengths_N)
    ]
    logprobs_N_T = rollouts.sampling_logprobs_N_T
    own = [Read(logprobs_N_T[n, : len(answer)].tolist(), answer) for n, answer in enumerate(answers)]
    policy.model.eval()
    # NF4 is dequantized once, as for the answers above.
    with policy.base(), rollout_weights(policy, num_rows=len(answers)):
        base = [read(policy.model, p.input_ids, a) for p, a in zip(prompts, answers, strict=True)]
    finished = rollouts.finished_N.tolist()
    return [Answer(*fields) for fields in zip(prompts, answers, finished, own, base, strict=True)]


def prompts_now(target: EvalTarget, answers: Sequence[Answer]) -> list[PreparedPrompt]:
    """The prompts of answers as the run's template writes them now, with the messages that it is given.

    They are the prepared ones, unless the template writes the date, which may be another one since then.
    """
    section = target.recipe.model
    tokenizer = load_tokenizer(section, target.recipe_dir)
    chat = Chat(tokenizer, "the run's tokenizer", section.chat_template_kwargs)
    found = []
    for answer in answers:
        prompt = replace(answer.prompt, messages=tuple(map(dict, chat.written(answer.prompt.messages))))
        if "strftime_now" in chat.source:
            text = chat.text(prompt.messages, add_generation_prompt=True)
            ids = tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
            prompt = replace(prompt, prompt=text, input_ids=ids)
        found.append(prompt)
    return found


@torch.no_grad()
def read(model: Any, prompt: Sequence[int], answer: Sequence[int]) -> Read:
    """How a model of transformers reads an answer."""
    ids = torch.tensor([[*prompt, *answer]], device=model.device)
    logits_T_V = model(input_ids=ids, logits_to_keep=len(answer) + 1, use_cache=False).logits[0, :-1].float()
    logprobs_T_V = torch.log_softmax(logits_T_V, dim=-1)
    tokens_T_1 = torch.tensor(answer, device=model.device).unsqueeze(-1)
    return Read(logprobs_T_V.gather(-1, tokens_T_1).squeeze(-1).tolist(), logprobs_T_V.argmax(-1).tolist())


def _chosen(prompts: Sequence[PreparedPrompt]) -> list[PreparedPrompt]:
    """The first prompt of each preference group, then the second of each, up to `PROMPTS`."""
    seen: dict[str, int] = {}
    ranked = []
    for place, prompt in enumerate(prompts):
        rank = seen[prompt.preference_group] = seen.get(prompt.preference_group, -1) + 1
        ranked.append((rank, place, prompt))
    return [prompt for _, _, prompt in sorted(ranked, key=lambda entry: entry[:2])[:PROMPTS]]
