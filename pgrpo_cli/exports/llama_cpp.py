"""Reads a GGUF file back with llama.cpp, where `xllamacpp` is installed, as its server would serve it."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pgrpo_cli.data.records import PreparedPrompt
from pgrpo_cli.errors import ExportError

from .reference import Answer, Read

NAME = "llama.cpp (xllamacpp)"
_COMMAND = (sys.executable, "-P", "-m", "pgrpo_cli.exports.llama_cpp_worker")
_SPARE = 16
_LONGEST = 300


def is_installed() -> bool:
    """Whether llama.cpp can be asked."""
    return importlib.util.find_spec("xllamacpp") is not None


def read_gguf(
    model: Path,
    answers: Sequence[Answer],
    prompts: Sequence[PreparedPrompt],
    *,
    stop: int,
    lora: Path | None = None,
) -> list[Read]:
    """How llama.cpp reads the run's answers, with the file's own chat template.

    `prompts`: those of the answers, as the run writes them now; `stop`: a token that ends an answer. Raises
    ExportError where llama.cpp cannot load the file, or makes other tokens of a conversation than the run.
    """
    longest = max(len(answer.prompt.input_ids) + len(answer.tokens) for answer in answers)
    job = {
        "model": str(model),
        "lora": None if lora is None else str(lora),
        "stop": stop,
        "context": longest + _SPARE,
        "chats": [list(map(dict, prompt.messages)) for prompt in prompts],
        "answers": [[list(answer.prompt.input_ids), list(answer.tokens)] for answer in answers],
    }
    found = _asked(job)
    for prompt, (text, tokens) in zip(prompts, found["chats"], strict=True):
        _require_chat(prompt, text, tokens)
    return [Read(**each) for each in found["reads"]]


def _asked(job: dict[str, Any]) -> Any:
    with tempfile.TemporaryDirectory(prefix="pgrpo-") as folder:
        result = Path(folder) / "result.json"
        # Its own session: Ctrl-C ends this process, which ends the worker. It prints what nobody needs.
        done = subprocess.run(
            _COMMAND,
            input=json.dumps({**job, "result": str(result)}),
            capture_output=True,
            text=True,
            errors="replace",
            start_new_session=True,
            check=False,
        )
        if done.returncode == 0 and result.is_file():
            return json.loads(result.read_text(encoding="utf-8"))
    lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    said = f"; it printed last: {lines[-1][:_LONGEST]}" if lines else ""
    raise ExportError(
        f"llama.cpp does not load the exported file (its process ended with code {done.returncode}){said}",
        remedy="Nothing was written. The installed xllamacpp may be older than the architecture, or the base "
        "model's file is damaged; --to merged does without llama.cpp.",
    )


def _require_chat(prompt: PreparedPrompt, text: str, tokens: Sequence[int]) -> None:
    """Raise ExportError unless a conversation gives the run's tokens."""
    if list(tokens) == list(prompt.input_ids):
        return
    due = prompt.prompt
    if text == due or due.endswith(text):
        what = (
            f"llama.cpp makes other tokens of the same text: it begins with {list(tokens)[:3]}, the run's "
            f"prompt with {list(prompt.input_ids)[:3]}"
        )
    else:
        place = next(
            (i for i, (a, b) in enumerate(zip(text, due, strict=False)) if a != b), min(len(text), len(due))
        )
        what = (
            f"llama.cpp renders the chat template otherwise, from character {place + 1} on: "
            f"{text[place : place + 40]!r} where the run has {due[place : place + 40]!r}"
        )
    raise ExportError(
        f"the prompt {prompt.prompt_id!r}: {what}",
        remedy="Nothing was written. Set model.chat_template to a plainer template and train again, or take "
        "--to merged.",
    )
