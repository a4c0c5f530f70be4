"""A template by roles writes what the model's Jinja template writes, or is refused."""

from __future__ import annotations

import pytest

from pgrpo_cli.errors import ExportError
from pgrpo_cli.exports.go_template import differences, role_template
from pgrpo_cli.model.load.random_model import random_tokenizer
from pgrpo_cli.pretrained.chat import Chat

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# As SmolLM2 has it: somebody who says nothing of the system gets a text of the model's maker.
DEFAULT = "{% if messages[0].role != 'system' %}<|im_start|>system\nI help.<|im_end|>\n{% endif %}" + CHATML
# As Gemma has it: no place for a system message, another name for the assistant, and BOS.
GEMMA = (
    "<bos>{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
# As Llama 3 has it.
LLAMA3 = (
    "<bos>{% for m in messages %}<|head|>{{ m.role }}<|/head|>\n\n{{ m.content }}<|eot|>{% endfor %}"
    "{% if add_generation_prompt %}<|head|>assistant<|/head|>\n\n{% endif %}"
)


def chat(template: str) -> Chat:
    tokenizer = random_tokenizer()
    tokenizer.chat_template = template
    return Chat(tokenizer, "it")


def test_in_gos_language_by_hand() -> None:
    assert role_template(chat(CHATML)).go() == (
        "{{ range .Messages }}"
        '{{ if eq .Role "system" }}<|im_start|>system\n{{ .Content }}<|im_end|>\n{{ end }}'
        '{{ if eq .Role "user" }}<|im_start|>user\n{{ .Content }}<|im_end|>\n{{ end }}'
        '{{ if eq .Role "assistant" }}<|im_start|>assistant\n{{ .Content }}<|im_end|>\n{{ end }}'
        "{{ end }}<|im_start|>assistant\n"
    )


def test_a_system_message_without_a_place_of_its_own_is_part_of_the_first_user_message() -> None:
    # With Go's own text/template it writes what the tests below compare.
    assert role_template(chat(GEMMA)).go(bos="<bos>") == (
        "{{ $system := .System }}{{ range .Messages }}"
        '{{ if eq .Role "user" }}<start_of_turn>user\n'
        '{{ if $system }}{{ $system }}\n\n{{ $system = "" }}{{ end }}{{ .Content }}<end_of_turn>\n{{ end }}'
        '{{ if eq .Role "assistant" }}<start_of_turn>model\n{{ .Content }}<end_of_turn>\n{{ end }}'
        "{{ end }}<start_of_turn>model\n"
    )


def test_a_text_for_conversations_without_a_system_message() -> None:
    go = role_template(chat(DEFAULT)).go()
    assert go.startswith("{{ if not .System }}<|im_start|>system\nI help.<|im_end|>\n{{ end }}{{ range")


@pytest.mark.parametrize(
    "template", [CHATML, DEFAULT, GEMMA, LLAMA3], ids=["chatml", "default", "gemma", "llama3"]
)
def test_conversations_are_written_as_by_the_models_own(template: str) -> None:
    made, own = role_template(chat(template)), chat(template)
    for roles in (
        ["user"],
        ["system", "user"],
        ["user", "assistant", "user"],
        ["system", "user", "assistant", "user"],
    ):
        messages = [{"role": role, "content": f"{n}. {{{{ said }}}}"} for n, role in enumerate(roles)]
        assert made.text(messages) == own.text(messages, add_generation_prompt=True)


def test_the_first_token_is_left_to_llama_cpp() -> None:
    assert "<bos>" not in role_template(chat(GEMMA)).go(bos="<bos>")
    assert role_template(chat(LLAMA3)).go(bos="<bos>").startswith("{{ range .Messages }}")
    # It stands before the system message and before the text that replaces one.
    assert "<bos>" not in role_template(chat("<bos>" + DEFAULT)).go(bos="<bos>")
    assert role_template(chat(LLAMA3)).go().startswith("<bos>{{ range .Messages }}")


def test_a_brace_of_the_template_is_none_of_gos() -> None:
    braces = (
        "{% for m in messages %}{{ m.role }}: { {{- m.content }} {{ '{{' }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {{ '{' }}{% endif %}"
    )
    go = role_template(chat(braces)).go()
    assert '{{ if eq .Role "user" }}user: {{ "{" }}{{ .Content }} {{ "{" }}{{ "{" }}\n{{ end }}' in go
    assert go.endswith('{{ end }}assistant: {{ "{" }}') and "{{{" not in go


@pytest.mark.parametrize(
    ("template", "what"),
    [
        (CHATML, []),
        (GEMMA, []),
        (CHATML.replace("m.content", "m.content | trim"), ["blanks"]),
        (CHATML.replace("m.content", "m.content.split('</think>')[-1]"), ["reasoning"]),
        (CHATML.replace("m.content", "m.content.split('</think>')[-1] | trim"), ["blanks", "reasoning"]),
    ],
    ids=["chatml", "gemma", "trims", "drops reasoning", "both"],
)
def test_what_the_models_own_template_leaves_out_is_said(template: str, what: list[str]) -> None:
    own = chat(template)
    notes = differences(role_template(own), own)
    assert len(notes) == len(what)
    assert all(word in note for word, note in zip(what, notes, strict=True))


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ loop.index }}{{ m.role }}: {{ m.content }}\n{% endfor %}",
        "{% for m in messages %}{{ m.role }}: {{ m.content | upper }}\n{% endfor %}",
        "{{ messages[-1].content }}\nA:",
        "{% if messages | length > 3 %}Long.\n{% endif %}" + CHATML,
    ],
    ids=["counts", "changes the text", "drops turns", "tells long conversations apart"],
)
def test_what_gos_template_would_write_otherwise_is_refused(template: str) -> None:
    with pytest.raises(ExportError, match="between two fixed texts"):
        role_template(chat(template))
