"""`pgrpo selfcheck`: what is printed where, exit codes, and the whole of it on this machine."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from pgrpo_cli.cli.selfcheck import _lines
from pgrpo_cli.selfcheck import runner
from pgrpo_cli.selfcheck.catalogue import CHECKS
from pgrpo_cli.selfcheck.results import Update, UpdateTime, schema_text
from tests.support import selfcheck_worker
from tests.support.training import pgrpo

SCRIPT = Path(selfcheck_worker.__file__)


@pytest.fixture
def doing(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Lets checks do other things than they do; all that is not named is ok."""
    monkeypatch.setenv("PYTHONPATH", str(SCRIPT.parents[2]))

    def run(deeds: str) -> None:
        monkeypatch.setattr(runner, "_COMMAND", (sys.executable, "-P", str(SCRIPT), deeds))

    return run


def test_results_are_printed_and_the_exit_code_is_1_where_one_failed(doing: Any) -> None:
    doing("rates:wrong,gradient:illegal,model:skip")
    result = pgrpo("selfcheck", "--shape", "tiny")
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert lines[0].split()[:2] == ["ok", "versions"]
    # 2e12 operations a second, 1e9 bytes a second; what is no number is left out.
    assert lines[1].strip() == "copy rate 1 GB/s, half dtype bfloat16, half rate 2 TFLOP/s"
    (failed,) = [i for i, line in enumerate(lines) if line.startswith("failed   rates")]
    assert lines[failed + 1].strip() == "the rates are wrong"
    assert "needs a GPU" in result.stdout
    count = len(CHECKS)
    assert f"{count - 3} ok, 2 failed, 1 skipped" in lines[-1]
    assert "pgrpo selfcheck --shape tiny --only rates --only gradient" in lines[-1]
    # The trace of an error that nobody foresaw is no result.
    assert "Traceback" in result.stderr and "Traceback" not in result.stdout


def test_what_has_several_parts_is_a_table() -> None:
    time = {"budget": 2048, "budget_left": 1024, "tokens": 6080, "seconds": 1.234}
    times = tuple(UpdateTime(**time, peak_bytes=peak, matrix_share=0.5) for peak in (3 << 30, None))
    assert _lines(Update(gradient_checkpointing=True, times=times)) == [
        "gradient checkpointing yes",
        "budget  budget left  tokens  seconds   peak  matrix share",
        " 2,048        1,024   6,080   1.23 s  3 GiB          50 %",
        " 2,048        1,024   6,080   1.23 s      -          50 %",
    ]


def test_with_json_standard_output_holds_the_json_alone(doing: Any) -> None:
    doing("gradient:illegal,model:kill")
    result = pgrpo("selfcheck", "--json")
    assert result.exit_code == 1 and "failed   gradient" in result.stderr
    document = json.loads(result.stdout)
    schema = json.loads(pgrpo("selfcheck", "--schema").stdout)
    jsonschema.Draft202012Validator(schema).validate(document)
    assert [each["name"] for each in document["results"]] == [check.name for check in CHECKS]
    assert "Traceback" in document["results"][3]["trace"]


def test_only_some_checks(doing: Any) -> None:
    doing("")
    result = pgrpo("selfcheck", "--only", "gradient", "--json")
    assert result.exit_code == 0
    names = [each["name"] for each in json.loads(result.stdout)["results"]]
    assert names == ["versions", "device", "gradient"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--only", "gradeint"), "--only: found 'gradeint'; must be one of versions, device, rates"),
        (("--only", "gradeint"), "did you mean gradient?"),
        (("--shape", "7b"), "7b"),
        (("--device", "gpu"), "--device: found 'gpu'"),
    ],
)
def test_words_that_are_wrong_are_refused(words: tuple[str, ...], said: str) -> None:
    result = pgrpo("selfcheck", *words)
    assert result.exit_code == 2 and said in " ".join(result.stderr.split())


def test_a_device_that_is_absent_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    result = pgrpo("selfcheck", "--device", "cuda:7", "--only", "rates")
    assert result.exit_code == 1
    assert "the device cuda:7 was asked for, and there is none" in result.stdout
    assert "1 ok, 1 failed, 1 skipped" in result.stdout


def test_ctrl_c_ends_it_and_its_process() -> None:
    words = [sys.executable, "-P", "-m", "pgrpo_cli", "selfcheck", "--device", "cpu", "--only", "probe"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as command:
        assert command.stdout is not None and command.stderr is not None
        assert "versions" in command.stdout.readline()
        (child,) = Path(f"/proc/{command.pid}/task/{command.pid}/children").read_text().split()
        command.send_signal(signal.SIGINT)
        assert command.wait(60) == 130
        said = command.stderr.read()
    assert "interrupted" in said and "Traceback" not in said
    assert not Path("/proc", child).exists()


def test_all_of_it_on_this_machine() -> None:
    """What applies to a CPU is ok, and the document is that of the schema."""
    result = pgrpo("selfcheck", "--device", "cpu", "--shape", "tiny", "--json")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    jsonschema.Draft202012Validator(json.loads(schema_text())).validate(document)
    of_a_gpu = {"graphs", "kernels", "plan", "out-of-memory"}
    for each in document["results"]:
        assert each["status"] == ("skipped" if each["name"] in of_a_gpu else "ok"), each
        assert (each["found"] is None) is (each["name"] in of_a_gpu)


@pytest.mark.gpu
def test_all_of_it_on_a_gpu() -> None:
    result = pgrpo("selfcheck", "--device", "cuda", "--shape", "tiny", "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["skipped"] == 0
