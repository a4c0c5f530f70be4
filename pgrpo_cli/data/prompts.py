"""From messages to the text and tokens that the model sees."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pgrpo_cli.errors import ModelError
from pgrpo_cli.pretrained.chat import Chat
from pgrpo_cli.recipe.templates import TemplateProblem

from .records import Message, PreparedPrompt, PromptRecord, RejectedRow, with_system_prompt

# Tokenizers without a limit of their own say so by an absurdly large number.
NO_LIMIT = 10**9
AT_ONCE = 64
"""Prompts that are put to the chat template at once."""
REFUSED = "refused by the chat template"


@dataclass(frozen=True)
class PromptRenderer:
    """Applies a tokenizer's chat template within limits, in tokens.

    `context` is the model's longest sequence (None: unknown), which prompt and completion share;
    `template_kwargs` are what the chat template wants to know besides the messages; `vocabulary` is how many
    tokens have an embedding.
    """

    tokenizer: Any
    system_prompt: str | None
    max_prompt_tokens: int
    max_completion_tokens: int
    context: int | None = None
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    vocabulary: int | None = None

    def __post_init__(self) -> None:
        if not getattr(self.tokenizer, "chat_template", None):
            raise ModelError(
                f"the tokenizer of {self._name} has no chat template, so it cannot write prompts as a "
                "conversation",
                remedy="Set model.id to a chat model, or model.chat_template to a template.",
            )
        try:
            text = self.chat.text([{"role": "user", "content": "Hello!"}], add_generation_prompt=True)
        except TemplateProblem as problem:
            raise self.chat.unusable(f"it refuses a single message of a user: {problem}") from problem
        if unknown := self._unknown(self._ids(text)):
            raise ModelError(
                f"the chat template of {self._name} writes {unknown}", remedy="Use the model's own tokenizer."
            )

    @cached_property
    def chat(self) -> Chat:
        """The chat template."""
        return Chat(self.tokenizer, self._name, self.template_kwargs)

    def __call__(self, records: Sequence[PromptRecord]) -> Iterator[PreparedPrompt | RejectedRow]:
        """The prompt of each that ends where the assistant begins, or the reason why there is none."""
        for start in range(0, len(records), AT_ONCE):
            some = records[start : start + AT_ONCE]
            conversations = [self._messages(record) for record in some]
            texts = self.chat.texts(conversations, add_generation_prompt=True)
            for record, messages, text in zip(some, conversations, texts, strict=True):
                if isinstance(text, TemplateProblem):
                    yield _rejected(record, REFUSED, str(text), left_out=False)
                else:
                    yield self._prepared(record, messages, text)

    def _messages(self, record: PromptRecord) -> list[Message]:
        return with_system_prompt([dict(message) for message in record.messages], self.system_prompt)

    def _prepared(
        self, record: PromptRecord, messages: list[Message], prompt: str
    ) -> PreparedPrompt | RejectedRow:
        """The prompt of a text, unless it is too long or holds a token that the model does not know."""
        input_ids = self._ids(prompt)
        length = len(input_ids)
        if length > self.max_prompt_tokens:
            detail = f"{length} tokens, data.max_prompt_tokens is {self.max_prompt_tokens}"
            return _rejected(record, "longer than data.max_prompt_tokens", detail, left_out=True)
        context = self._context()
        if context is not None and length + self.max_completion_tokens > context:
            detail = (
                f"{length} tokens + {self.max_completion_tokens} for the completion, the context is {context}"
            )
            return _rejected(record, "longer than the model's context", detail, left_out=True)
        if unknown := self._unknown(input_ids):
            return _rejected(record, "a token that the model does not know", unknown, left_out=False)
        return PreparedPrompt(
            record.prompt_id,
            record.assigned,
            prompt,
            input_ids,
            record.columns,
            tuple(messages),
            record.user_id,
        )

    def notes(self, prompts: Iterable[PreparedPrompt]) -> tuple[str, ...]:
        """What a user should know of how these prompts were written."""
        if self.chat.has_system_role or all(prompt.messages[0]["role"] != "system" for prompt in prompts):
            return ()
        return (
            f"The chat template of {self._name} has no place for a system message: system messages and "
            "model.system_prompt begin the first user message instead.",
        )

    @property
    def _name(self) -> str:
        return getattr(self.tokenizer, "name_or_path", "") or "the model"

    def _ids(self, text: str) -> tuple[int, ...]:
        # The template writes the special tokens that a conversation begins with.
        return tuple(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def _unknown(self, ids: Sequence[int]) -> str | None:
        """What is wrong with the first token that has no embedding, if there is one."""
        if self.vocabulary is None or (first := next((i for i in ids if i >= self.vocabulary), None)) is None:
            return None
        token = self.tokenizer.convert_ids_to_tokens(first)
        return f"{token!r}, token {first} of the tokenizer, and the model has {self.vocabulary} tokens"

    def _context(self) -> int | None:
        own = getattr(self.tokenizer, "model_max_length", None)
        limits = [limit for limit in (self.context, own) if limit is not None and limit < NO_LIMIT]
        return min(limits, default=None)

    @property
    def template_sha256(self) -> str:
        """Hash of the chat template, part of what prepared data depend on."""
        return hashlib.sha256(self.chat.source.encode()).hexdigest()


def remedy_for(rejected: Collection[RejectedRow], otherwise: str) -> str:
    """What to do about rows that are rejected: `otherwise`, unless the template alone is in the way."""
    if not rejected or any(row.reason != REFUSED for row in rejected):
        return otherwise
    return (
        "The model's chat template takes no such conversations: set model.chat_template to another one, or "
        "change the conversations to what it takes."
    )


def _rejected(record: PromptRecord, reason: str, detail: str, *, left_out: bool) -> RejectedRow:
    row = json.dumps(list(record.messages))[:500]
    return RejectedRow(
        reason, detail, record.file, record.line, record.preference_group, row, left_out=left_out
    )
