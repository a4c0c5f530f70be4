"""From messages to the text and tokens that the model sees."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pgrpo_cli.errors import ModelError

from .records import PreparedPrompt, PromptRecord, RejectedRow

# Tokenizers without a limit of their own say so by an absurdly large number.
NO_LIMIT = 10**9


@dataclass(frozen=True)
class PromptRenderer:
    """Applies a tokenizer's chat template within limits, in tokens.

    `context` is the model's longest sequence (None: unknown), which prompt and completion share;
    `template_kwargs` are what the chat template wants to know besides the messages.
    """

    tokenizer: Any
    system_prompt: str | None
    max_prompt_tokens: int
    max_completion_tokens: int
    context: int | None = None
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not getattr(self.tokenizer, "chat_template", None):
            name = getattr(self.tokenizer, "name_or_path", "") or "the model"
            raise ModelError(
                f"the tokenizer of {name} has no chat template, so it cannot write prompts as a conversation",
                remedy="Set model.id to a chat model, or put a chat_template.jinja beside its tokenizer.",
            )

    def __call__(self, record: PromptRecord) -> PreparedPrompt | RejectedRow:
        """The prompt that ends where the assistant begins, or the reason why there is none."""
        messages = [dict(message) for message in record.messages]
        if self.system_prompt is not None and messages[0]["role"] != "system":
            messages.insert(0, {"role": "system", "content": self.system_prompt})
        try:
            prompt = self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, **self.template_kwargs
            )
        # Templates raise whatever they like: jinja's errors for refused roles, type errors for odd contents.
        except Exception as error:
            detail = f"{type(error).__name__}: {error}"
            return _rejected(record, "refused by the chat template", detail, left_out=False)
        # The template writes the special tokens that a conversation begins with.
        input_ids = tuple(self.tokenizer(prompt, add_special_tokens=False, verbose=False)["input_ids"])
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
        return PreparedPrompt(
            record.prompt_id,
            record.preference_group,
            prompt,
            input_ids,
            record.columns,
            tuple(messages),
            record.user_id,
        )

    def _context(self) -> int | None:
        own = getattr(self.tokenizer, "model_max_length", None)
        limits = [limit for limit in (self.context, own) if limit is not None and limit < NO_LIMIT]
        return min(limits, default=None)

    @property
    def template_sha256(self) -> str:
        """Hash of the chat template, part of what prepared data depend on."""
        template = self.tokenizer.chat_template
        text = template if isinstance(template, str) else json.dumps(template, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def _rejected(record: PromptRecord, reason: str, detail: str, *, left_out: bool) -> RejectedRow:
    row = json.dumps(list(record.messages))[:500]
    return RejectedRow(
        reason, detail, record.file, record.line, record.preference_group, row, left_out=left_out
    )
