"""What `pgrpo prepare` tells about rows that it cannot use."""

from __future__ import annotations

import json
from pathlib import Path

from pgrpo_cli.data.prepared import load_prepared
from tests.support.training import ROWS, pgrpo, write_tiny


def test_a_broken_line_is_named_and_loses_no_other(tmp_path: Path) -> None:
    recipe = write_tiny(tmp_path)
    rows = tmp_path / "rows.jsonl"
    lines = rows.read_text(encoding="utf-8").splitlines()
    lines.insert(2, '{"prompt": "cut in the mi')
    lines.insert(9, '{"preference_group": "often"}')
    rows.write_text("\n".join(lines) + "\n", encoding="utf-8")
    result = pgrpo("prepare", recipe, "--run-dir", tmp_path / "run")
    assert (result.exit_code, result.stdout) == (0, "")
    told = result.stderr.splitlines()
    assert "rejected: 1 x not JSON" in told
    assert "  rows.jsonl:3: not JSON" in told
    assert "  rows.jsonl:10: no prompt" in told
    prompts = [prompt for split in ("train", "eval") for prompt in load_prepared(tmp_path / "run", split)]
    assert len(prompts) == sum(ROWS.values())
    kept = (tmp_path / "run" / "data" / "rejected.jsonl").read_text().splitlines()
    assert [json.loads(line)["line"] for line in kept] == [3, 10]
    assert f"all rejected rows, with their reasons: {tmp_path / 'run' / 'data' / 'rejected.jsonl'}" in told


def test_of_many_rejected_rows_the_first_few_are_named(tmp_path: Path) -> None:
    recipe = write_tiny(tmp_path)
    with (tmp_path / "rows.jsonl").open("a", encoding="utf-8") as file:
        file.write("{\n" * 9)
    told = pgrpo("prepare", recipe, "--run-dir", tmp_path / "run").stderr
    # 32 good rows come before them.
    assert [f"rows.jsonl:{line}:" in told for line in range(33, 42)] == [True] * 5 + [False] * 4
    assert "rejected: 9 x not JSON" in told
