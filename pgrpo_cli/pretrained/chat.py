"""The chat template of a model. It is rendered in a process with limits on time and memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from pgrpo_cli.errors import ModelError
from pgrpo_cli.recipe.templates import ChatTemplate, TemplateProblem

Messages = Sequence[Mapping[str, Any]]

_SAID = "Answer in one word."
_MARK = "<<<the message continues here>>> "


class Chat:
    """The chat template of a tokenizer. Raises ModelError if it is not valid.

    Error messages begin with `where` and end with `remedy`. `variables`: values that the template reads
    besides the messages.
    """

    def __init__(
        self,
        tokenizer: Any,
        where: str,
        variables: Mapping[str, Any] | None = None,
        *,
        remedy: str = "Set model.chat_template to another template, or model.id to another model.",
    ) -> None:
        self._where, self._remedy = where, remedy
        self._variables = {**tokenizer.special_tokens_map, **(variables or {})}
        try:
            self.source: str = tokenizer.get_chat_template()
            self._template = ChatTemplate(self.source)
        # ValueError: the tokenizer has several templates, and none is named "default".
        except (TemplateProblem, ValueError) as error:
            raise self.unusable(str(error)) from error

    def text(self, messages: Messages, *, add_generation_prompt: bool = False) -> str:
        """The conversation as text.

        If the template does not support system messages, a leading one is put in front of the first user
        message. Raises TemplateProblem if the template refuses the conversation, ModelError if it exceeds the
        limits on time or memory.
        """
        (text,) = self.texts([messages], add_generation_prompt=add_generation_prompt)
        if isinstance(text, TemplateProblem):
            raise text
        return text

    def texts(
        self, conversations: Sequence[Messages], *, add_generation_prompt: bool = False
    ) -> list[str | TemplateProblem]:
        """The same of many conversations at once, with the problem of each that the template refuses."""
        if any(map(_leads, conversations)):
            conversations = [self.written(each) for each in conversations]
        return self._rendered(conversations, add_generation_prompt=add_generation_prompt)

    def written(self, messages: Messages) -> Messages:
        """The conversation as the template is given it: without a system message that it does not support."""
        return _folded(messages) if _leads(messages) and not self.has_system_role else messages

    def unfinished(self, messages: Messages) -> str:
        """The same text, cut after the content of the last message, so that the model continues it."""
        *before, last = messages
        # A template that strips messages leaves the mark without its last character.
        text = self.text([*before, {**last, "content": f"{last['content']}{_MARK}"}])
        found, mark, _ = text.rpartition(_MARK.rstrip())
        if not mark:
            raise TemplateProblem("it does not write the last message")
        return found if _MARK in text else found.rstrip()

    @cached_property
    def has_system_role(self) -> bool:
        """Whether the template writes a system message; some refuse it, some leave it out."""
        system, user = {"role": "system", "content": _SAID}, {"role": "user", "content": "Hello!"}
        (text,) = self._rendered([[system, user]], add_generation_prompt=True)
        return isinstance(text, str) and _SAID in text

    def unusable(self, why: str) -> ModelError:
        """The message for a template that nothing can be written with."""
        return ModelError(f"{self._where}: its chat template cannot be used: {why}", remedy=self._remedy)

    def _rendered(
        self, conversations: Sequence[Messages], *, add_generation_prompt: bool
    ) -> list[str | TemplateProblem]:
        values = {
            **self._variables,
            "tools": None,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
        }
        rows = [
            {**values, "messages": [{k: v for k, v in m.items() if v is not None} for m in messages]}
            for messages in conversations
        ]
        texts = self._template.render_all(rows)
        for text in texts:
            if isinstance(text, TemplateProblem) and text.exhausted:
                raise self.unusable(str(text)) from text
        return texts


def _leads(messages: Messages) -> bool:
    """Whether a conversation begins with a system message and a user's."""
    return [message["role"] for message in messages[:2]] == ["system", "user"]


def _folded(messages: Messages) -> Messages:
    system, first, *rest = messages
    return [{**first, "content": f"{system['content']}\n\n{first['content']}"}, *rest]
