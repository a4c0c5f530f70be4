"""A judge for tests: a real HTTP server on this machine that answers as a test says."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from pgrpo_cli.recipe.evaluation import PairJudge
from pgrpo_cli.recipe.rewards import JudgeReward
from pgrpo_cli.rewards.judge.reward import Judge

from .rewards import completions, scored, summed


@dataclass(frozen=True)
class Asked:
    """One request: its number from 0, and what came with it."""

    number: int
    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    at: float
    """Monotonic seconds."""

    @property
    def text(self) -> str:
        """What the rubric wrote."""
        return self.body["messages"][1]["content"]

    @property
    def is_reminder(self) -> bool:
        return len(self.body["messages"]) > 2


@dataclass(frozen=True)
class Answer:
    """What goes back: a chat completion with `content`, or `raw` bytes."""

    content: str | None = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    raw: bytes | None = None
    finish_reason: str = "stop"
    tokens: tuple[int, int] = (100, 10)
    after: Callable[[], object] = lambda: None
    """Called before the answer goes out."""
    hangs_up: bool = False
    """Closes the connection without a word."""

    def bytes(self) -> bytes:
        if self.raw is not None:
            return self.raw
        message = {"role": "assistant", "content": self.content}
        choice = {"index": 0, "message": message, "finish_reason": self.finish_reason}
        usage = {"prompt_tokens": self.tokens[0], "completion_tokens": self.tokens[1]}
        return json.dumps({"choices": [choice], "usage": usage}).encode()


Behaviour = Callable[[Asked], Answer | str]


class JudgeServer(ThreadingHTTPServer):
    """Records what it was asked, and the most requests that were ever in flight."""

    request_queue_size = 128
    daemon_threads = True

    def __init__(self, behaviour: Behaviour) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behaviour = behaviour
        self.asked: list[Asked] = []
        self.in_flight = self.most_in_flight = 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def section(self, **values: Any) -> JudgeReward:
        """A recipe's section for this judge, which waits next to nothing between attempts."""
        return JudgeReward(**{"base_url": self.url, "model": "small", "backoff_s": 0.001, **values})

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""


class _Handler(BaseHTTPRequestHandler):
    server: JudgeServer
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        with server.lock:
            asked = Asked(len(server.asked), self.path, dict(self.headers), body, time.monotonic())
            server.asked.append(asked)
            server.in_flight += 1
            server.most_in_flight = max(server.most_in_flight, server.in_flight)
        try:
            answer = server.behaviour(asked)
            answer = Answer(answer) if isinstance(answer, str) else answer
            answer.after()
        finally:
            with server.lock:
                server.in_flight -= 1
        if answer.hangs_up:
            self.close_connection = True
            return
        content = answer.bytes()
        self.send_response(answer.status)
        for name, value in {"Content-Length": str(len(content)), **answer.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """No line a request."""


@contextmanager
def judge_server(behaviour: Behaviour) -> Iterator[JudgeServer]:
    """A server that runs as long as the block."""
    with JudgeServer(behaviour) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def by_length(asked: Asked) -> str:
    """A score from 1 to 10 that depends on nothing but the text."""
    return json.dumps({"score": 1 + len(asked.text) % 10})


def values(judge: Judge, texts: Sequence[str], **options: Any) -> list[float]:
    """What a judge gives to completions."""
    return [score.value for score in scored(summed(judge), completions(*texts), **options)]


def judged(server: JudgeServer, *texts: str, **section: Any) -> list[float]:
    """The same of a judge with that section."""
    return values(Judge(server.section(**section), None, None), texts)


def echo(asked: Asked) -> str:
    """Scores as the answer says, which stands between the tags of the default rubric."""
    return asked.text.split("<answer>\n")[1].split("\n</answer>")[0]


def missing(found: Sequence[float]) -> list[bool]:
    """Which are NaN."""
    return [math.isnan(value) for value in found]


def pair_section(server: JudgeServer, **values: Any) -> PairJudge:
    """The section `eval.judge` for a server, which waits next to nothing between attempts."""
    return PairJudge(**{"base_url": server.url, "model": "small", "backoff_s": 0.001, **values})


def shown_pair(asked: Asked) -> tuple[str, str]:
    """The two answers, in the order in which the default rubric shows them."""
    first, second = (asked.text.split(f"<answer_{n}>\n")[1].split(f"\n</answer_{n}>")[0] for n in (1, 2))
    return first, second
