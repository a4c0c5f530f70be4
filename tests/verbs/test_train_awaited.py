"""Runs whose rewards are awaited leave what runs with the same plain rewards leave, and stop as they do."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import Process
from tests.support.rewards import PATIENCE, threads_left
from tests.support.training import metrics, outcome, pgrpo, steps_in, write_tiny

# 12 completions a step in three batches of one prompt each.
ROLLOUT = {"num_generations": 4, "max_completion_tokens": 8, "tokens_per_batch": 1}
LENGTH = {"type": "length", "unit": "characters", "max": 6}

# A number that depends on the completion and its preference group, in another file when it is awaited.
PLAIN = """
def worth(text, group):
    return None if len(set(text)) % 3 == 0 else len(set(text)) / 7 + len(group) / 3

def reward(completions, preference_group, **columns):
    return [worth(text, group) for text, group in zip(completions, preference_group)]
"""


def recipe_of(folder: Path, source: str, **sections: Any) -> Path:
    """The tiny recipe with a reward of its own beside a built-in one."""
    folder.mkdir(exist_ok=True)
    (folder / "mine.py").write_text(source)
    rewards = [LENGTH, {"type": "python", "file": "mine.py", "weight": 0.3}]
    return write_tiny(folder, rollout=ROLLOUT, rewards=rewards, **sections)


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a run with the plain reward leaves."""
    folder = tmp_path_factory.mktemp("twin")
    assert (
        pgrpo("train", recipe_of(folder, PLAIN), "--run-dir", folder / "run", "--allow-code").exit_code == 0
    )
    assert sum(line["missing_rewards"] for line in metrics(folder / "run")) > 0
    return outcome(folder / "run")


AWAITED = f"""
import asyncio, random
{PLAIN.replace("def reward", "def plain")}
# Bound to the event loop that first waits for it: one loop serves the whole run.
turn = asyncio.Semaphore(2)

async def judged(text, group):
    async with turn:
        await asyncio.sleep(random.random() / 100)
    return worth(text, group)

async def reward(completions, preference_group, **columns):
    return await asyncio.gather(*map(judged, completions, preference_group))
"""


@pytest.mark.filterwarnings("error::RuntimeWarning:asyncio", "error::pytest.PytestUnraisableExceptionWarning")
def test_a_run_with_awaited_rewards_is_bit_for_bit_one_with_plain_ones(
    tmp_path: Path, twin: dict[str, Any]
) -> None:
    recipe = recipe_of(tmp_path, AWAITED)
    assert pgrpo("train", recipe, "--run-dir", tmp_path / "run", "--allow-code").exit_code == 0
    assert outcome(tmp_path / "run") == twin
    assert threads_left() == []


def test_the_model_samples_while_a_reward_is_awaited(tmp_path: Path, twin: dict[str, Any]) -> None:
    # No call of a step ends before the last one has begun, for which the last batch must have been sampled.
    together = (
        AWAITED
        + """
begun = []

async def reward(completions, preference_group, **columns):
    begun.append(len(completions))
    async with asyncio.timeout(60):
        while len(begun) % 3:
            await asyncio.sleep(0.001)
    return plain(completions, preference_group)
"""
    )
    recipe = recipe_of(tmp_path, together)
    result = pgrpo("train", recipe, "--run-dir", tmp_path / "run", "--allow-code")
    assert result.exit_code == 0, result.stderr
    assert outcome(tmp_path / "run") == twin


class Judge(ThreadingHTTPServer):
    """An HTTP server that scores one completion a request, and answers only when `at_once` are in flight."""

    def __init__(self, at_once: int, worth: Callable[[str, str], float | None]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.meeting, self.worth, self.requests = threading.Barrier(at_once), worth, 0

    request_queue_size = 64

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/score"


class _Handler(BaseHTTPRequestHandler):
    server: Judge

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests += 1
        self.server.meeting.wait(PATIENCE)
        answer = json.dumps(self.server.worth(asked["completion"], asked["preference_group"])).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: object) -> None:
        """No line a request."""


@pytest.fixture
def judge() -> Iterator[Judge]:
    namespace: dict[str, Any] = {}
    exec(PLAIN, namespace)
    # All 12 completions of a step: requests of the first batch are answered after the last was sampled.
    with Judge(at_once=12, worth=namespace["worth"]) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


ASK = """
import asyncio, json
from urllib.request import ProxyHandler, build_opener

# The judge is here: no proxy between.
opener = build_opener(ProxyHandler({{}}))

def ask(text, group):
    body = json.dumps({{"completion": text, "preference_group": group}}).encode()
    with opener.open("{url}", data=body, timeout=60) as answer:
        return json.loads(answer.read())

async def reward(completions, preference_group, **columns):
    return await asyncio.gather(
        *(asyncio.to_thread(ask, text, group) for text, group in zip(completions, preference_group))
    )
"""


def test_a_judge_over_http_answers_a_whole_step_at_once(
    tmp_path: Path, twin: dict[str, Any], judge: Judge
) -> None:
    recipe = recipe_of(tmp_path, ASK.format(url=judge.url))
    result = pgrpo("train", recipe, "--run-dir", tmp_path / "run", "--allow-code")
    assert result.exit_code == 0, result.stderr
    assert judge.requests == 6 * 12
    assert outcome(tmp_path / "run") == twin
    assert threads_left() == []


def test_a_judge_that_has_gone_is_explained_and_can_come_back(
    tmp_path: Path, twin: dict[str, Any], judge: Judge
) -> None:
    run, here = tmp_path / "run", ASK.format(url=judge.url)
    # Nobody listens on port 9 of the loopback; from the third step on it is asked.
    gone = (
        here.replace("def ask(text, group):", "asked = []\n\ndef ask(text, group):\n    asked.append(1)")
        + f"""
url = "{judge.url}"
"""
    )
    gone = gone.replace(f'open("{judge.url}"', 'open(url if len(asked) <= 24 else "http://127.0.0.1:9"')
    result = pgrpo("train", recipe_of(tmp_path, gone), "--run-dir", run, "--allow-code")
    assert result.exit_code == 1
    assert (
        "reward 'python' raised URLError: <urlopen error [Errno 111] Connection refused>; prompt"
        in result.stderr
    )
    assert "Traceback" not in result.stderr
    assert steps_in(run) == ["step-000002"]
    assert threads_left() == []
    again = pgrpo("train", recipe_of(tmp_path, here), "--run-dir", run, "--allow-code", "--accept-changes")
    assert again.stdout.startswith("resumed from step 2\n")
    assert outcome(run) == twin


WAITS = {
    "in a coroutine": "await asyncio.Event().wait()",
    "in a thread": "await asyncio.to_thread(time.sleep, 3600)",
    "blocking the loop": "time.sleep(3600)",
}


@pytest.mark.parametrize("waits", WAITS.values(), ids=WAITS)
def test_a_second_interrupt_stops_a_run_that_awaits_a_reward(
    tmp_path: Path, twin: dict[str, Any], waits: str
) -> None:
    hangs = (
        AWAITED.replace("import asyncio", "import time, asyncio")
        + f"""
calls = []

async def reward(completions, preference_group, **columns):
    calls.append(1)
    if len(calls) > 9:
        open({str(tmp_path / "hangs")!r}, "w").close()
        {waits}
    return plain(completions, preference_group)
"""
    )
    run = tmp_path / "run"
    process = Process(tmp_path, "train", recipe_of(tmp_path, hangs), "--run-dir", run, "--allow-code")
    process.wait_until((tmp_path / "hangs").exists)
    process.send(signal.SIGINT)
    process.wait_until(lambda: "press Ctrl-C again" in process.stderr)
    process.send(signal.SIGINT)
    assert process.wait(timeout=120) == 130, process.stderr
    assert "stopped at once" in process.stderr
    assert "Traceback" not in process.stderr
    assert "never awaited" not in process.stderr
    assert steps_in(run) == ["step-000002"]
    again = ("train", recipe_of(tmp_path, AWAITED), "--run-dir", run, "--allow-code", "--accept-changes")
    assert pgrpo(*again).exit_code == 0
    assert outcome(run) == twin


def test_a_first_interrupt_lets_the_step_end(tmp_path: Path, twin: dict[str, Any]) -> None:
    run = tmp_path / "run"
    interrupts = (
        AWAITED.replace("import asyncio", "import os, signal, asyncio")
        + """
calls = []

async def reward(completions, preference_group, **columns):
    calls.append(1)
    if len(calls) == 8:
        os.kill(os.getpid(), signal.SIGINT)
    await asyncio.sleep(0.01)
    return plain(completions, preference_group)
"""
    )
    result = pgrpo("train", recipe_of(tmp_path, interrupts), "--run-dir", run, "--allow-code")
    assert result.exit_code == 130
    assert "stopped after step 3 of 6; everything is saved" in result.stderr
    assert threads_left() == []
