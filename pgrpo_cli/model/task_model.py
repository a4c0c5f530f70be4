"""The policy as a model that lm-eval can ask, with its progress told instead of drawn."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

from pgrpo_cli.pretrained.chat import Chat
from pgrpo_cli.recipe.templates import TemplateProblem

from .policy import Policy

Progress = Callable[[int, int], None]
"""Called with the requests answered and the number of requests."""


def task_model(
    policy: Policy, *, batch_size: int, max_length: int, chat_template_kwargs: Mapping[str, Any]
) -> Any:
    """An `lm_eval.models.huggingface.HFLM` of the policy as it is: adapter on or off when it is asked.

    `max_length`: tokens of a request. `chat_template_kwargs`: as `apply_chat_template` of the tokenizer takes
    them. The attribute `progress` of the model takes a `Progress`; requests of one kind count together. What
    rollouts left in the policy's workspace is given back: full logits need the room.
    """
    from lm_eval.models.huggingface import HFLM

    class TaskModel(HFLM):  # type: ignore[misc, unused-ignore]
        progress: Progress
        batch_size_per_gpu: int

        def _counted(self, ask: Callable[..., Any], requests: list[Any]) -> Any:
            self.set_cache_hook(_Counter(self.progress, len(requests)))
            self.progress(0, len(requests))
            return ask(requests, disable_tqdm=True)

        def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> Any:
            return self._counted(super().loglikelihood, requests)

        def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = True) -> Any:
            return self._counted(super().loglikelihood_rolling, requests)

        def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> Any:
            return self._counted(super().generate_until, requests)

        def _loglikelihood_tokens(self, requests: Any, disable_tqdm: bool = True, **options: Any) -> Any:
            return super()._loglikelihood_tokens(requests, disable_tqdm=True, **options)

        def apply_chat_template(
            self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
        ) -> str:
            chat = Chat(self.tokenizer, "the model of the run", self.chat_template_args)
            try:
                if add_generation_prompt:
                    return chat.text(chat_history, add_generation_prompt=True)
                return chat.unfinished(chat_history)
            except TemplateProblem as problem:
                raise chat.unusable(f"it refuses a task's conversation: {problem}") from problem

        def lower_batch_size(self) -> bool:
            """Halve it; whether that could be done."""
            can = self.batch_size_per_gpu > 1
            self.batch_size_per_gpu = max(1, self.batch_size_per_gpu // 2)
            return can

    policy.workspace.release()
    with warnings.catch_warnings():
        # What transformers says about attributes that lm-eval asks for is nothing to the user.
        warnings.simplefilter("ignore", FutureWarning)
        model = TaskModel(
            pretrained=policy.model,
            tokenizer=policy.tokenizer,
            batch_size=batch_size,
            chat_template_args=dict(chat_template_kwargs),
        )
    # Never more than the model takes.
    model._max_length = min(max_length, model.max_length)
    model.progress = lambda done, total: None
    return model


class _Counter:
    """In the place of lm-eval's cache, which hears of every answer."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def add_partial(self, kind: str, request: Any, answer: Any) -> None:
        # The parts of a long text are requests within a request.
        self._done = min(self._done + 1, self._total)
        self._progress(self._done, self._total)
