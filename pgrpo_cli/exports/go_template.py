"""A chat template in Ollama's language, made from what the model's own one writes.

Ollama has templates of Go. What the Jinja template writes around the text of each role is found by rendering
marked conversations. The result is compared with the Jinja template before it is used; a template that does
more than write each message between two fixed texts is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pgrpo_cli.errors import ExportError
from pgrpo_cli.pretrained.chat import Chat, Messages
from pgrpo_cli.recipe.templates import TemplateProblem

_MARKS = {"system": "System text", "user": "User text", "assistant": "Assistant text"}
_TRIED = (
    ("user",),
    ("user", "assistant", "user"),
    ("system", "user"),
    ("system", "user", "assistant", "user"),
)

# What a model's own template may leave out or change, and conversations that show it. Many do, such as those
# of Llama 3 and Qwen3, so that it is no reason to refuse them.
_CHANGED: dict[str, tuple[tuple[tuple[str, str], ...], ...]] = {
    "blanks at the ends of a message": (
        (("system", " Short. \n"), ("user", "Tea?")),
        (("user", " Tea? \n"),),
        (("user", "Tea?"), ("assistant", " Yes. \n"), ("user", "Why?")),
    ),
    "the reasoning of earlier answers": (
        (("user", "Tea?"), ("assistant", "<think>\nHm.\n</think>\n\nYes."), ("user", "Why?")),
    ),
}


@dataclass(frozen=True)
class RoleTemplate:
    """What is written: `start`, then `default` if there is no system message, then each message between the
    two texts of its role, then `answer`. A system message for which `around` has no texts stands with a blank
    line in front of the first user message, as `Chat` puts it.
    """

    start: str
    default: str
    around: dict[str, tuple[str, str]]
    answer: str

    def text(self, messages: Messages) -> str:
        """A conversation, as Ollama writes it."""
        written = [self.start]
        if not messages or messages[0]["role"] != "system":
            written.append(self.default)
        told = ""
        for message in messages:
            role, content = message["role"], message["content"]
            if role not in self.around:
                told = f"{content}\n\n"
                continue
            before, after = self.around[role]
            if role == "user":
                content, told = told + content, ""
            written.append(f"{before}{content}{after}")
        return "".join([*written, self.answer])

    def go(self, *, bos: str = "") -> str:
        """The same in Go's language, without the text `bos`, which llama.cpp puts first by itself."""
        start, default = self.start.removeprefix(bos), self.default.removeprefix(bos)
        roles, told, system = [], "", ""
        if "system" not in self.around:
            told = '{{ if $system }}{{ $system }}\n\n{{ $system = "" }}{{ end }}'
            # Ollama has the system message in `.Messages`, too, where no role of the template takes it.
            system = "{{ $system := .System }}"
        for role, (before, after) in self.around.items():
            # A system message comes first.
            before = before.removeprefix(bos) if role == "system" else before
            content = f"{told if role == 'user' else ''}{{{{ .Content }}}}"
            text = f"{_literal(before)}{content}{_literal(after)}"
            roles.append(f'{{{{ if eq .Role "{role}" }}}}{text}{{{{ end }}}}')
        head = f"{{{{ if not .System }}}}{_literal(default)}{{{{ end }}}}" if default else ""
        body = f"{system}{{{{ range .Messages }}}}{''.join(roles)}{{{{ end }}}}"
        return f"{_literal(start)}{head}{body}{_literal(self.answer)}"


def role_template(chat: Chat) -> RoleTemplate:
    """The template of a tokenizer by roles. Raises ExportError for one that cannot be written so."""
    try:
        made = _made(chat)
        for roles in _TRIED:
            messages = [{"role": role, "content": f"{_MARKS[role]} {n}"} for n, role in enumerate(roles)]
            if made.text(messages) != chat.text(messages, add_generation_prompt=True):
                raise _Odd
    except (_Odd, TemplateProblem) as error:
        raise ExportError(
            "the model's chat template does more than write each message between two fixed texts, which a "
            "template of Ollama cannot repeat",
            remedy="Export with --to gguf: llama.cpp and LM Studio render the model's own template.",
        ) from error
    return made


class _Odd(Exception):
    pass


def _made(chat: Chat) -> RoleTemplate:
    def rendered(*roles: str, answer: bool = True) -> str:
        return chat.text([{"role": r, "content": _MARKS[r]} for r in roles], add_generation_prompt=answer)

    # user, assistant, user: what is between the marks is the end of one role and the beginning of another.
    alone, more = rendered("user"), rendered("user", "assistant", "user")
    opening, closing = _around(alone, "user")
    first, rest = _around(more, "assistant")
    _, between = _around(first, "user")
    _, assistant_end = _around(rendered("user", "assistant", answer=False), "assistant")
    user = _removed(_until(rest, "user"), assistant_end)
    _, user_end = _around(rendered("user", answer=False), "user")
    answer = _removed(closing, user_end)
    around = {"user": (user, user_end), "assistant": (_removed(between, user_end), assistant_end)}
    prefix = _removed_end_text(opening, user)
    if not chat.has_system_role:
        return RoleTemplate(prefix, "", around, answer)
    system_start, after = _around(rendered("system", "user"), "system")
    system_end = _removed_end_text(_until(after, "user"), user)
    # What every conversation begins with. Another text is that of conversations without a system message.
    start = prefix if system_start.startswith(prefix) else ""
    around = {"system": (system_start.removeprefix(start), system_end), **around}
    return RoleTemplate(start, prefix.removeprefix(start), around, answer)


def _around(text: str, role: str) -> tuple[str, str]:
    before, mark, after = text.partition(_MARKS[role])
    if not mark:
        raise _Odd
    return before, after


def _until(text: str, role: str) -> str:
    return _around(text, role)[0]


def _removed(text: str, prefix: str) -> str:
    if not text.startswith(prefix):
        raise _Odd
    return text.removeprefix(prefix)


def _removed_end_text(text: str, suffix: str) -> str:
    if not text.endswith(suffix):
        raise _Odd
    return text.removesuffix(suffix)


def _literal(text: str) -> str:
    """Text that Go's templates write as it is."""
    # Each brace: one at the end would stand before those of what follows.
    return text.replace("{", '{{ "{" }}')


def differences(template: RoleTemplate, chat: Chat) -> list[str]:
    """What the model's own template leaves out or changes and the template by roles writes, as sentences."""
    found = []
    for what, conversations in _CHANGED.items():
        asked = [
            [{"role": role, "content": content} for role, content in messages] for messages in conversations
        ]
        own = chat.texts(asked, add_generation_prompt=True)
        if any(
            isinstance(text, str) and text != template.text(messages)
            for messages, text in zip(asked, own, strict=True)
        ):
            found.append(
                f"the model's own chat template leaves out or changes {what}; a template of Ollama cannot do "
                "that and writes them as they are"
            )
    return found


def require_same(template: RoleTemplate, chat: Chat, conversations: Sequence[Messages]) -> None:
    """Raise ExportError unless these conversations are written as the model's own template writes them."""
    for messages, text in zip(
        conversations, chat.texts(conversations, add_generation_prompt=True), strict=True
    ):
        if text != template.text(messages):
            raise ExportError(
                "a conversation of the run is written otherwise by the template for Ollama than by the "
                "model's own",
                remedy="Nothing was written. Export with --to gguf instead.",
            )
