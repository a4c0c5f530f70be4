"""`pgrpo serve` as a command: what it refuses, where it answers, how it ends."""

from __future__ import annotations

import signal
import socket
import sys
from pathlib import Path

import httpx2
import pytest

from tests.support.processes import Process
from tests.support.training import pgrpo, trained, write_tiny


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("serve")
    trained(write_tiny(folder), folder / "run")
    return folder / "run"


def address(process: Process) -> str:
    """Where it answers, as it says."""
    process.wait_until(lambda: "\n" in process.stdout)
    return process.stdout.split()[2]


@pytest.mark.parametrize(
    ("signum", "code", "says"),
    [
        (signal.SIGINT, 130, "stopping; answers at work are cut short; press Ctrl-C again"),
        (signal.SIGTERM, 143, "SIGTERM: stopping; answers at work are cut short"),
    ],
)
def test_it_answers_until_a_signal_comes_also_while_an_answer_is_at_work(
    run: Path, tmp_path: Path, signum: int, code: int, says: str
) -> None:
    process = Process(tmp_path, "serve", run, "--port", 0, "--device", "cpu")
    url = address(process)
    question = {
        "model": "run@often", "messages": [{"role": "user", "content": "often 3"}], "temperature": 0,
        "max_tokens": 1800, "stream": True,
    }  # fmt: skip
    with httpx2.stream("POST", f"{url}/v1/chat/completions", json=question, timeout=60) as answer:
        lines = answer.iter_lines()
        assert next(lines).startswith('data: {"id"')
        process.send(signum)
        assert process.wait(30) == code
    assert says in process.stderr
    assert "Device: cpu, " in process.stderr and "Traceback" not in process.stderr
    assert process.stdout == f"Serving at {url} (the page) and {url}/v1 (OpenAI's interface)\n"


def test_a_checkpoint_is_served_by_its_step(run: Path, tmp_path: Path) -> None:
    process = Process(tmp_path, "serve", run, "--port", 0, "--step", 4, "--device", "cpu")
    question = {"model": "run", "messages": [{"role": "user", "content": "often 3"}]}
    answer = httpx2.post(f"{address(process)}/v1/chat/completions", json=question, timeout=60)
    process.send(signal.SIGTERM)
    assert process.wait(30) == 143
    assert answer.json()["system_fingerprint"] == "run-step-4"


def test_other_machines_are_served_with_a_token_alone(run: Path) -> None:
    for host in ("0.0.0.0", "::"):
        result = pgrpo("serve", run, "--host", host, "--port", 0)
        assert result.exit_code == 2
        assert "can be reached from other machines" in result.stderr
        assert "--token" in result.stderr


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--host", "no-such-machine.invalid"], "there is no machine 'no-such-machine.invalid'"),
        (["--host", "192.0.2.1", "--token", "secret"], "cannot be listened on"),
        (["--token", "two words"], "a token is one word"),
        (["--token", ""], "a token is one word"),
        (["--step", "5"], "step 5"),
    ],
)
def test_what_cannot_be_is_refused_with_a_message(run: Path, options: list[str], says: str) -> None:
    result = pgrpo("serve", run, *options)
    assert result.exit_code in (1, 2)
    assert says in result.stderr


def test_a_port_in_use_is_named_with_a_way_out(run: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = pgrpo("serve", run, "--port", port)
    assert result.exit_code == 2
    assert f"--port: {port} is in use by another program" in result.stderr
    assert "--port 0" in result.stderr


def test_without_the_extra_the_command_that_installs_it_is_said(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    result = pgrpo("serve", run)
    assert result.exit_code == 2
    assert "pip install 'pgrpo-cli[serve]'" in result.stderr
