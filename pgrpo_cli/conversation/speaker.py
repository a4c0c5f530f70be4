"""The model of a run as one talks to it: base and tuned, one answer at a time, piece by piece.

Answers are drawn as an evaluation draws them, from uniform numbers that are fixed by a seed. So the base
model and the tuned one, asked with the same seed, differ by what training changed and not by luck.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Lock, Thread
from typing import Any

import torch

from pgrpo_cli.data.records import Message, PreparedPrompt
from pgrpo_cli.errors import DataError, TrainingError
from pgrpo_cli.eval.alignment import policy_of
from pgrpo_cli.eval.sampling import eval_sampling
from pgrpo_cli.eval.targets import EvalTarget, sampling_of
from pgrpo_cli.feedback.records import recorded_name
from pgrpo_cli.model.load.base_model import model_limits
from pgrpo_cli.model.policy import Policy
from pgrpo_cli.model.rollout.cpu_weights import rollout_weights
from pgrpo_cli.model.rollout.generated import decode_padded
from pgrpo_cli.model.rollout.sampling import SamplingSettings, uniforms
from pgrpo_cli.pretrained.chat import Chat
from pgrpo_cli.pretrained.memory import is_out_of_memory
from pgrpo_cli.recipe.schema import Recipe
from pgrpo_cli.recipe.templates import TemplateProblem
from pgrpo_cli.stats.result_types import Which


class Reply:
    """An answer while it is sampled. Iterate over it for its pieces of text, once.

    When it has ended, `text` is the whole answer, and `finished` says whether the model ended it, or the
    limit on tokens did. `prompt` is the rendered text that the model saw, of `prompt_tokens` tokens; the
    answer has `tokens`, its end included. To stop early, close the iterator, or call `stop` from any thread:
    what has come so far stays.
    """

    def __init__(
        self, speaker: Speaker, prompt: PreparedPrompt, which: Which, seed: int, settings: Any, stop: Event
    ) -> None:
        self.prompt, self.which, self.seed = prompt.prompt, which, seed
        self.text, self.finished, self.tokens = "", False, 0
        self.prompt_tokens = len(prompt.input_ids)
        self._stop = Event()
        self._stops = (self._stop, stop)
        self._speaker, self._asked, self._settings = speaker, prompt, settings

    def __iter__(self) -> Generator[str, None, None]:
        tokenizer, ids, streamer = self._speaker.policy.tokenizer, list[int](), _Streamer()
        failures = list[BaseException]()
        # The model works in a thread of its own, so that each piece can be shown as soon as it is there.
        worker = Thread(target=self._work, args=(streamer, failures), daemon=True)
        worker.start()
        try:
            # The first are the prompt's.
            for more in islice(iter(streamer.tokens.get, None), 1, None):
                ids += more
                # All of them at once: some tokenizers leave out a leading space of what they decode.
                # The next token may complete a character.
                text = tokenizer.decode(ids, skip_special_tokens=True).rstrip("\ufffd")
                piece = text[len(self.text) :]
                if piece and text.startswith(self.text):
                    self.text = text
                    yield piece
            text = tokenizer.decode(ids, skip_special_tokens=True)
            piece, self.text = text[len(self.text) :], text
            if piece:
                yield piece
        finally:
            self.stop()
            worker.join()
        if failures:
            raise _explained(failures[0])

    def stop(self) -> None:
        """Let the answer end after the token at hand."""
        self._stop.set()

    def read(self) -> str:
        """The whole answer, when it is there."""
        for _ in self:
            pass
        return self.text

    def _work(self, streamer: Any, failures: list[BaseException]) -> None:
        try:
            (ids_T,) = self._speaker.decode(
                [self._asked], self.which, [self.seed], self._settings, self._stops, streamer=streamer
            )
            self.tokens = len(ids_T)
            self.finished = bool(ids_T) and ids_T[-1] in self._speaker.policy.stop_token_ids
        except BaseException as error:
            failures.append(error)
        finally:
            # Whoever waits for the next piece must hear that there is none.
            streamer.end()


class _Streamer:
    """Hands the tokens of an answer over as `generate` draws them, and None at their end."""

    def __init__(self) -> None:
        self.tokens = SimpleQueue[list[Any] | None]()

    def put(self, value: torch.Tensor) -> None:
        """Tokens of the prompt [1, T] at the first call, then the new one [1]."""
        self.tokens.put(value.tolist())

    def end(self) -> None:
        """There are no more."""
        self.tokens.put(None)


class Speaker:
    """A base model with an adapter, loaded once.

    `name` and `step` say which run, as records name it, and how many of its steps. `ask` may be called from
    several threads; the answers are computed one after the other.
    """

    def __init__(self, policy: Policy, recipe: Recipe, recipe_dir: Path, *, name: str, step: int) -> None:
        self.policy, self.recipe, self.step = policy, recipe, step
        self.name = recorded_name(name)
        self._chat = Chat(
            policy.tokenizer, f"model.id: {recipe.model.id!r}", recipe.model.chat_template_kwargs
        )
        self._settings = replace(eval_sampling(sampling_of(recipe.eval, recipe.rollout)), num_generations=1)
        self._context = model_limits(recipe.model, recipe_dir).context
        self._busy = Lock()

    @property
    def max_tokens(self) -> int:
        """How long an answer may be unless one asks for more: as long as in training."""
        return self._settings.max_completion_tokens

    def rendered(self, messages: Sequence[Message]) -> str:
        """The text that the model sees of a conversation. Raises DataError where the template refuses it."""
        try:
            return self._chat.text(messages, add_generation_prompt=True)
        except TemplateProblem as problem:
            raise DataError(
                f"the chat template of {self.recipe.model.id} refuses this conversation: {problem}",
                remedy="Most templates want the messages of user and assistant in turns.",
            ) from problem

    def ask(
        self,
        messages: Sequence[Message],
        *,
        which: Which = "tuned",
        seed: int = 0,
        max_tokens: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        stop: Event | None = None,
    ) -> Reply:
        """The answer to a conversation that ends with a user's message.

        `max_tokens`: its longest; `temperature` and `top_p`: None for those of evaluations; a temperature of
        0 takes the likeliest tokens. `stop` ends the answer early when it is set.
        Raises DataError where the conversation leaves no room for an answer.
        """
        settings = replace(self._settings, max_completion_tokens=max_tokens or self.max_tokens)
        if temperature is not None:
            settings = replace(settings, greedy=temperature == 0, temperature=temperature or 1.0)
        if top_p is not None:
            settings = replace(settings, top_p=top_p)
        return Reply(self, self._prompt(messages, settings), which, seed, settings, stop or Event())

    def answers(
        self,
        conversations: Sequence[Sequence[Message]],
        *,
        which: Which,
        seeds: Sequence[int],
        stop: Event | None = None,
    ) -> list[str]:
        """The answer to each conversation, drawn by its seed as `ask` would draw it, in one batch.

        `stop` ends all of them early when it is set.
        Raises DataError where a conversation leaves no room for an answer, TrainingError where the memory of
        the device does not hold them.
        """
        prompts = [self._prompt(messages, self._settings) for messages in conversations]
        try:
            ids_N_T = self.decode(prompts, which, seeds, self._settings, [stop or Event()])
        except RuntimeError as error:
            raise _explained(error) from error
        return [self.policy.tokenizer.decode(ids_T, skip_special_tokens=True) for ids_T in ids_N_T]

    def _prompt(self, messages: Sequence[Message], settings: SamplingSettings) -> PreparedPrompt:
        text = self.rendered(messages)
        ids = tuple(self.policy.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
        if self._context is not None and len(ids) + settings.max_completion_tokens > self._context:
            raise DataError(
                f"the conversation has {len(ids)} tokens; with {settings.max_completion_tokens} for the "
                f"answer that is more than the {self._context} that the model reads",
                remedy="Begin a new conversation, or ask for fewer tokens.",
            )
        return PreparedPrompt("conversation", "", text, ids)

    def decode(
        self,
        prompts: Sequence[PreparedPrompt],
        which: Which,
        seeds: Sequence[int],
        settings: SamplingSettings,
        stops: Sequence[Event] = (),
        **options: Any,
    ) -> list[list[int]]:
        """The tokens of an answer to each prompt, up to its stop token, or until one of `stops` is set;
        `options` go to transformers' `generate`. One batch at a time.
        """

        def stopped(input_ids: torch.Tensor, scores: Any, **options: Any) -> torch.Tensor:
            return torch.full(
                (len(input_ids),), any(stop.is_set() for stop in stops), device=input_ids.device
            )

        uniform_N_T = torch.cat(
            [
                uniforms(seed, prompt.prompt_id, 1, settings.max_completion_tokens)
                for prompt, seed in zip(prompts, seeds, strict=True)
            ]
        )
        with (
            self._busy,
            self.policy.base() if which == "base" else nullcontext(),
            rollout_weights(self.policy, num_rows=len(prompts)),
        ):
            ids_N_T, _ = decode_padded(
                self.policy, prompts, settings, uniform_N_T, stopping_criteria=[stopped], **options
            )
        return [_up_to_stop(ids_T, self.policy.stop_token_ids) for ids_T in ids_N_T.tolist()]


def load_speaker(target: EvalTarget, device: torch.device) -> Speaker:
    """Load the model of a run. Raises ModelError or CheckpointError."""
    policy = policy_of(target, device)
    name = target.run.path.resolve().name
    return Speaker(policy, target.recipe, target.recipe_dir, name=name, step=target.step)


def _up_to_stop(ids_T: list[int], stop_token_ids: Sequence[int]) -> list[int]:
    """The tokens up to the first stop token, and that; in a batch, what follows it is padding."""
    end = next((place for place, token in enumerate(ids_T, start=1) if token in stop_token_ids), len(ids_T))
    return ids_T[:end]


def _explained(error: BaseException) -> BaseException:
    if not is_out_of_memory(error):
        return error
    return TrainingError(
        "the memory of the device does not hold this conversation",
        remedy="Begin a new one, or ask for fewer tokens.",
    )
