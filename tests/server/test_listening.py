"""Connections: for how long they may be idle, and how many there may be."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack
from http.client import HTTPConnection
from pathlib import Path

import httpx2
import pytest

from pgrpo_cli.conversation.speaker import Speaker
from pgrpo_cli.server import listening
from tests.support.serving import served

HEAD = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n"


def connected(url: str) -> socket.socket:
    host, port = url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=10)


@pytest.mark.parametrize("sent", [b"", b"GET", HEAD])
def test_who_sends_no_complete_head_is_cut_off(
    url: str, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(listening, "HEAD_SECONDS", 0.3)
    with connected(url) as connection:
        connection.sendall(sent)
        assert connection.recv(100) == b""


def test_the_same_holds_for_a_second_request(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "HEAD_SECONDS", 0.3)
    connection = HTTPConnection(url.removeprefix("http://"), timeout=10)
    for _ in range(2):
        # Together they take longer than one may.
        time.sleep(0.2)
        connection.request("GET", "/v1/models")
        answer = connection.getresponse()
        assert answer.status == 200 and answer.read()
    connection.sock.sendall(b"G")
    assert connection.sock.recv(100) == b""
    connection.close()


def test_a_request_may_take_longer(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "HEAD_SECONDS", 0.2)
    with connected(url) as connection:
        connection.sendall(
            b"POST /v1/models HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: 2\r\n\r\n"
        )
        time.sleep(0.6)
        connection.sendall(b"{}")
        assert connection.recv(100).startswith(b"HTTP/1.1 405")


def test_where_all_connections_are_taken_that_is_said_in_openais_form(
    speaker: Speaker, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening, "MOST_CONNECTIONS", 3)
    with served(speaker, run) as url, ExitStack() as idle:
        assert httpx2.get(f"{url}/v1/models").status_code == 200
        for _ in range(3):
            idle.enter_context(connected(url))
        time.sleep(0.2)
        answer = httpx2.get(f"{url}/v1/models")
        assert answer.status_code == 503
        assert "3 connections" in answer.json()["error"]["message"]
        assert answer.json()["error"]["type"] == "server_error"
