"""What is said of answers in a run, as data of the next one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pgrpo_cli import chat
from pgrpo_cli.data.prepared import load_prepared
from tests.support.training import pgrpo, trained, write_tiny

GROUPS = ("often", "seldom")
CONDITIONINGS: dict[str, dict[str, Any]] = {
    "profiles": {"type": "profiles", "profiles": {"often": "Comes daily.", "seldom": "Comes once a year."}},
    "the rows' messages": {"type": "prompt"},
    "a template": {"type": "prompt", "template": "{{ system_prompt }} They come {{ preference_group }}."},
}


@pytest.mark.parametrize("conditioning", CONDITIONINGS.values(), ids=CONDITIONINGS)
def test_the_next_run_trains_on_the_prompts_that_were_rated_and_picked_from(
    tmp_path: Path, conditioning: dict[str, Any]
) -> None:
    data: dict[str, Any] = {"source": {"type": "jsonl", "path": "rows.jsonl"}, "conditioning": conditioning}
    model = {
        "id": "random", "quantization": {"type": "none"}, "compute_dtype": "float32",
        "random": {"hidden_size": 16, "num_layers": 2, "num_heads": 2}, "system_prompt": "Be kind.",
    }  # fmt: skip
    recipe = write_tiny(tmp_path, data=data, model=model)
    rows = [
        {"messages": [*_told(conditioning, group), {"role": "user", "content": f"{group} {i}"}],
         "preference_group": group}
        for group in GROUPS
        for i in range(8)
    ]  # fmt: skip
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = tmp_path / "run"
    trained(recipe, run, "--set", "train.steps=1")

    questions = ["Tea?", "Milk?", "Rum?"]
    seen = set()
    for group in GROUPS:
        conversation = chat(run, group=group)
        for question in questions:
            conversation.restart()
            reply = conversation.ask(question)
            reply.read()
            conversation.keep(question, reply)
            conversation.rate(1)
            seen.add(reply.prompt)
        (tmp_path / "questions.txt").write_text("\n".join(questions))
        (tmp_path / "marks.txt").write_text("1\n" * len(questions))
        options = ("--prompts", tmp_path / "questions.txt", "--answers", tmp_path / "marks.txt")
        found = pgrpo("taste", run, "--user", "ana", "--as", group, "--between", "base,tuned", *options)
        assert found.exit_code == 0, found.stderr

    for file in ("feedback", "taste"):
        data["source"] = {"type": "feedback", "path": str(run / f"{file}.jsonl")}
        following = tmp_path / file
        result = pgrpo("prepare", write_tiny(tmp_path, data=data, model=model), "--run-dir", following)
        assert result.exit_code == 0, result.stderr
        prompts = [prompt for half in ("train", "eval") for prompt in load_prepared(following, half)]
        assert {prompt.prompt for prompt in prompts} == seen


def _told(conditioning: dict[str, Any], group: str) -> list[dict[str, str]]:
    if conditioning != {"type": "prompt"}:
        return []
    said = [("system", f"They come {group}."), ("user", "Good day!"), ("assistant", "Hello.")]
    return [{"role": role, "content": content} for role, content in said]
