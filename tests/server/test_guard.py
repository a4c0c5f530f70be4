"""Whose requests are taken, and what happens to those that end early."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from pgrpo_cli.conversation.speaker import Speaker
from pgrpo_cli.server import guard
from pgrpo_cli.server.guard import Admission
from tests.support.serving import served

ASKED = {"model": "run", "messages": [{"role": "user", "content": "often 3"}]}


def asked(url: str, **headers: str) -> httpx2.Response:
    """A question with these headers; their names have underscores."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx2.post(f"{url}/v1/chat/completions", json=ASKED, headers=names)


@pytest.mark.parametrize(
    "host", ["127.0.0.1:{port}", "localhost:{port}", "LOCALHOST", "[::1]:{port}", "127.9.9.9"]
)
def test_this_machine_has_several_names(url: str, host: str) -> None:
    assert asked(url, host=host.format(port=url.rpartition(":")[2])).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost@evil.example", "1.2.3.4"],
)
def test_another_name_that_leads_here_is_refused(url: str, host: str) -> None:
    # DNS rebinding: a page of evil.example, whose name leads here for a moment, would read what it gets.
    for answer in (asked(url, host=host), httpx2.get(f"{url}/v1/models", headers={"host": host})):
        assert answer.status_code == 403
        assert "Host" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://localhost:1", "file://", "", "http://[", "http://[x]"]
)
def test_a_page_of_another_site_is_refused(url: str, origin: str) -> None:
    answer = asked(url, origin=origin)
    assert answer.status_code == 403
    assert "access-control-allow-origin" not in answer.headers
    # What a browser asks before it sends JSON elsewhere gets no permission.
    preflight = httpx2.options(f"{url}/v1/chat/completions", headers={"origin": "http://evil.example"})
    assert preflight.status_code == 403
    assert "access-control-allow-origin" not in preflight.headers


def test_the_own_page_is_served(url: str) -> None:
    assert asked(url, origin=url).status_code == 200


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "", "multipart/form-data"]
)
def test_only_json_is_taken_since_browsers_send_other_kinds_without_asking(url: str, kind: str) -> None:
    answer = httpx2.post(
        f"{url}/v1/chat/completions", content=json.dumps(ASKED), headers={"content-type": kind}
    )
    assert answer.status_code == 415


def test_a_token_is_asked_of_everybody(speaker: Speaker, run: Path) -> None:
    with served(speaker, run, host="0.0.0.0", token="long-secret") as url:
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic long-secret"}):
            answer = asked(url, **headers)
            assert answer.status_code == 401
            assert answer.json()["error"]["code"] == "invalid_api_key"
        assert httpx2.get(f"{url}/v1/models").status_code == 401
        # Names of this machine in a network are not known here; the token is what counts.
        assert asked(url, host="box.lan:80", authorization="Bearer long-secret").status_code == 200
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="long-secret")
        assert [model.id for model in client.models.list()][:2] == ["base", "run"]
        assert asked(url, origin="http://evil.example", authorization="Bearer long-secret").status_code == 403


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_that_is_too_long_is_not_read(url: str, declared: bool) -> None:
    body = b"x" * (guard.LONGEST_BODY + 1)
    content: Any = body if declared else iter([body])
    answer = httpx2.post(
        f"{url}/v1/chat/completions", content=content, headers={"content-type": "application/json"}
    )
    assert answer.status_code == 413
    assert "1,048,576 bytes" in answer.json()["error"]["message"]


def test_a_body_that_does_not_come_is_not_awaited_for_ever(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "BODY_SECONDS", 0.2)
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: 100\r\n\r\n{"
        )
        assert connection.recv(100).startswith(b"HTTP/1.1 408")


def test_half_a_request_is_none(speaker: Speaker, run: Path) -> None:
    with served(speaker, run) as url:
        address = url.removeprefix("http://").split(":")
        for _ in range(5):
            with socket.create_connection((address[0], int(address[1])), timeout=10) as connection:
                connection.sendall(
                    b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
                    b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
                )
        assert asked(url).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/etc/passwd", 404), ("GET", "/v1/chat/completions", 405), ("DELETE", "/v1/models", 405)],
)
def test_what_is_not_there_is_said_in_openais_form(url: str, method: str, path: str, status: int) -> None:
    answer = httpx2.request(method, f"{url}{path}", headers={"content-type": "application/json"})
    assert answer.status_code == status
    assert answer.json()["error"]["message"]


def test_what_nobody_foresaw_is_told_to_whoever_runs_it_and_the_server_goes_on(
    speaker: Speaker, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise KeyError("a secret of the machine")

    failures: list[Exception] = []
    with served(speaker, run, on_failure=failures.append) as url, monkeypatch.context() as patch:
        patch.setattr(speaker, "ask", fail)
        answer = asked(url)
        assert answer.status_code == 500
        assert "secret" not in answer.text
        patch.undo()
        assert asked(url).status_code == 200
    assert [type(error) for error in failures] == [KeyError]


def test_every_answer_tells_browsers_to_guess_and_keep_nothing(url: str) -> None:
    for answer in (httpx2.get(f"{url}/v1/models"), asked(url, host="evil.example")):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert answer.headers["cache-control"] == "no-store"
        assert "set-cookie" not in answer.headers


def test_a_host_is_read_as_browsers_write_it() -> None:
    ours = Admission("my-box")
    for host in ("my-box", "MY-BOX:8000", "localhost.", "[::1]", "127.0.0.1:1"):
        assert ours._is_ours(host)
    for host in ("", ":8000", "my-box.evil", "::1", "[::1", "a b", "localhost:8000:9"):
        assert not ours._is_ours(host)
