"""Modelfiles: a merged GGUF for Ollama, and one preset for each preference group.

Names of preference groups and texts of prompts are strangers'. In a Modelfile a text stands between three
quotation marks, and ends at the next three: those are the only characters that it may not have.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pgrpo_cli.data.conditioning.presets import Preset
from pgrpo_cli.errors import ExportError
from pgrpo_cli.pretrained.chat import Chat, Messages
from pgrpo_cli.recipe.schema import Recipe

from .formats import sampling_of
from .go_template import RoleTemplate, require_same, role_template

MODELFILE = "Modelfile"
_QUOTES = '"""'
_NAME = re.compile(r"[^a-z0-9]+")
_LONGEST = 40
_UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\u2028\u2029]")


def quoted(text: str) -> str:
    """A text as a value of a Modelfile; three quotation marks become two and one, apart."""
    text = _UNSEEN.sub("", text)
    while _QUOTES in text:
        text = text.replace(_QUOTES, '"" "')
    return f"{_QUOTES}{text}{_QUOTES}"


def names_of(groups: Sequence[str]) -> dict[str, str]:
    """A name for files and models of each preference group: lower-case letters, digits and hyphens, and each
    name once.
    """
    names: dict[str, str] = {}
    taken: set[str] = set()
    for group in groups:
        base = _NAME.sub("-", group.lower()).strip("-")[:_LONGEST].strip("-") or "group"
        name, number = base, 1
        while name in taken:
            number += 1
            name = f"{base}-{number}"
        taken.add(name)
        names[group] = name
    return names


def modelfile(weights: str, template: str, parameters: Mapping[str, Any], preset: Preset | None) -> str:
    """The text of a Modelfile."""
    if _QUOTES in template:
        raise ExportError(
            "the model's chat template holds three quotation marks, which no Modelfile can have",
            remedy="Export with --to gguf instead.",
        )
    lines = [f"FROM ./{weights}", f"TEMPLATE {quoted(template)}"]
    for key, value in parameters.items():
        for each in value if isinstance(value, list) else [value]:
            lines.append(f"PARAMETER {key} {_parameter(each)}")
    for message in preset.messages if preset is not None else ():
        if message["role"] == "system" and not message["content"]:
            # Ollama takes an empty one for none; `_template_of` writes it.
            continue
        if message["role"] == "system":
            lines.append(f"SYSTEM {quoted(message['content'])}")
        else:
            lines.append(f"MESSAGE {message['role']} {quoted(message['content'])}")
    return "\n".join(lines) + "\n"


def _parameter(value: Any) -> str:
    return (
        f'"{value}"' if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else str(value)
    )


def parameters_of(recipe: Recipe, stop: Sequence[str], context: int | None) -> dict[str, Any]:
    """How `pgrpo chat` samples, and where an answer ends."""
    found: dict[str, Any] = {
        **sampling_of(recipe),
        # The run knows no such penalty, and Ollama has had one by default.
        "repeat_penalty": 1.0,
    }
    if context is not None:
        found["num_ctx"] = min(context, recipe.data.max_prompt_tokens + recipe.rollout.max_completion_tokens)
        found["num_ctx"] = max(found["num_ctx"], min(context, 2048))
    # A quotation mark cannot stand in a parameter.
    found["stop"] = [token for token in stop if token and '"' not in token and "\n" not in token]
    return found


def write_modelfiles(
    folder: Path,
    chat: Chat,
    weights: str,
    parameters: Mapping[str, Any],
    default: Preset,
    presets: Sequence[Preset],
    conversations: Sequence[Messages],
    *,
    bos: str = "",
) -> dict[str, str]:
    """Write `Modelfile`, and `Modelfile.<name>` for each preset. Returns the name of each preference group.

    `conversations` must be written as the model's own template writes them: raises ExportError.
    """
    template: RoleTemplate = role_template(chat)
    require_same(template, chat, conversations)

    def written(preset: Preset) -> str:
        return modelfile(weights, _template_of(template, preset).go(bos=bos), parameters, preset)

    (folder / MODELFILE).write_text(written(default), "utf-8")
    names = names_of([str(preset.preference_group) for preset in presets])
    for preset in presets:
        path = folder / f"{MODELFILE}.{names[str(preset.preference_group)]}"
        path.write_text(written(preset), "utf-8")
    return names


def _template_of(template: RoleTemplate, preset: Preset) -> RoleTemplate:
    """The template for a preset. Where its system message is empty, what is written of that stands instead of
    the text of conversations that have none. Raises ExportError where it has no place of its own.
    """
    if not any(message["role"] == "system" and not message["content"] for message in preset.messages):
        return template
    if "system" not in template.around:
        raise ExportError(
            "an empty system message stands before the question, which Ollama takes for none, and the "
            "model's chat template has no place of its own for it",
            remedy="Export with --to gguf instead, or train with `model.system_prompt: null`.",
        )
    return replace(template, default="".join(template.around["system"]))


def commands(folder: Path, run: str, names: Mapping[str, str]) -> tuple[str, ...]:
    """What to type: one model for each preference group, all on the same weights."""
    model = _NAME.sub("-", run.lower()).strip("-") or "model"
    place = shlex.quote(str(folder))
    made = [f"ollama create {model}-{name} -f Modelfile.{name}" for name in names.values()]
    talk = f"ollama run {model}-{next(iter(names.values()))}" if names else f"ollama run {model}"
    return (f"cd {place}", f"ollama create {model} -f {MODELFILE}", *made, talk)
