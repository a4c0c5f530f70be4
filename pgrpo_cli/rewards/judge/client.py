"""Requests to a judge: an OpenAI-compatible chat-completions interface over HTTP.

A request that fails in a way that may pass is repeated after a pause that doubles each time. Nothing is sent
to any other address than the recipe's: redirects are not followed. Proxies of the environment are used,
except for a judge on this machine.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from typing import Any

import httpx2

from pgrpo_cli.recipe.judge import JudgeSection
from pgrpo_cli.seeding import derive_seed

from .answer import without_thoughts

LONGEST_PAUSE_SECONDS = 300.0
"""A server that asks for more than that has failed."""
_LONGEST_BACKOFF_SECONDS = 60.0
_LONGEST_REPLY = 4 * 2**20
_SHOWN = 300
"""Characters of a server's words that are shown."""
_MOST_TOKENS = 10**12
"""A server that counts more does not count."""
_NEWER_LIMIT = "max_completion_tokens"
_PASSING = frozenset([408, 425, 429])
_HOPELESS = frozenset([401])
_REFUSING = frozenset([403, 404, 405])


class RequestFailed(Exception):
    """A request that brought no answer, for the reason `kind`; `said`: the server's words, without the key.

    `passing`: the same request may succeed later. `hopeless`: no request will succeed until somebody changes
    the recipe, the key or the server. `refusing`: none will, unless the server refuses what this one says, as
    services do that moderate.
    """

    def __init__(
        self,
        kind: str,
        said: str = "",
        *,
        passing: bool = False,
        hopeless: bool = False,
        refusing: bool = False,
        retry_after: float = 0.0,
    ) -> None:
        super().__init__(f"{kind}: {said}" if said else kind)
        self.kind, self.said = kind, said
        self.passing, self.hopeless, self.refusing = passing, hopeless, refusing
        self.retry_after = retry_after


@dataclass(frozen=True)
class Reply:
    """What the judge said, or thought where it said nothing. `shown`: the same without the key, which may be
    kept, shown and sent. `cut_off`: it reached its limit on tokens.
    """

    text: str
    shown: str
    cut_off: bool


def is_this_machine(host: str) -> bool:
    """Whether nothing that is sent to `host` leaves this machine. Names below localhost may be anywhere: they
    are looked up as others are.
    """
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def http_client(section: JudgeSection, api_key: str | None) -> httpx2.AsyncClient:
    """Raises ImportError, ValueError or OSError for a proxy or certificates that cannot be used."""
    return httpx2.AsyncClient(
        headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
        timeout=None,
        limits=httpx2.Limits(max_connections=None, max_keepalive_connections=section.concurrency),
        trust_env=not is_this_machine(section.host),
    )


class JudgeClient:
    """Sends requests, `concurrency` at once at most. Use on one event loop, as an async context manager.

    `usage` counts requests (`calls`) and tokens (`input_tokens`, `output_tokens`).
    """

    def __init__(self, section: JudgeSection, api_key: str | None, usage: Counter[str]) -> None:
        self._section, self._key, self._usage = section, api_key, usage
        self._url = f"{section.base_url}/chat/completions"
        self._http = http_client(section, api_key)
        self._limit = "max_tokens"
        self._turn = asyncio.Semaphore(section.concurrency)
        self._resumes = 0.0

    async def __aenter__(self) -> JudgeClient:
        return self

    async def __aexit__(self, *raised: object) -> None:
        await self._http.aclose()

    async def ask(self, body: Mapping[str, Any], question: str) -> Reply:
        """The judge's answer to a request. Raises RequestFailed, after all attempts where one may help.

        The pauses between attempts are a function of `question`, so that requests spread, and a repeated run
        waits as the first did.
        """
        for attempt in range(self._section.retries + 1):
            try:
                async with self._turn:
                    await self._until_resumed()
                    return await self._send(body)
            except RequestFailed as failure:
                self._hold(failure.retry_after)
                if not failure.passing or attempt == self._section.retries:
                    raise
            await asyncio.sleep(backoff(self._section.backoff_s, question, attempt))
        raise AssertionError("the last attempt returns or raises")

    def _hold(self, seconds: float) -> None:
        """No request leaves before `seconds` have passed: the server asked for it."""
        self._resumes = max(self._resumes, asyncio.get_running_loop().time() + seconds)

    async def _until_resumed(self) -> None:
        while (left := self._resumes - asyncio.get_running_loop().time()) > 0:
            await asyncio.sleep(left)

    async def _send(self, body: Mapping[str, Any]) -> Reply:
        self._usage["calls"] += 1
        sent = {self._limit if key == "max_tokens" else key: value for key, value in body.items()}
        try:
            async with (
                asyncio.timeout(self._section.timeout_s),
                self._http.stream("POST", self._url, json=sent) as response,
            ):
                content = await _limited(response)
        except TimeoutError:
            raise RequestFailed(f"no answer within {self._section.timeout_s:g} s", passing=True) from None
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise RequestFailed(type(error).__name__, self._shown(str(error)), passing=True) from error
        if response.status_code == 400 and "max_tokens" in sent and _NEWER_LIMIT.encode() in content:
            # OpenAI's newer models know the limit by another name, which others do not.
            self._limit = _NEWER_LIMIT
            return await self._send(body)
        if response.status_code != 200:
            raise self._refusal(response, content)
        return self._reply(content)

    def _refusal(self, response: httpx2.Response, content: bytes) -> RequestFailed:
        status, said = response.status_code, self._shown(content.decode("utf-8", "replace"))
        kind, said = self._shown(f"{status} {response.reason_phrase}"), said or "no reason given"
        if response.is_redirect:
            where = self._shown(response.headers.get("location", "elsewhere"))
            return RequestFailed(str(status), f"it redirects to {where}", hopeless=True)
        pause = _retry_after(response.headers.get("retry-after"))
        if pause > LONGEST_PAUSE_SECONDS:
            return RequestFailed(kind, f"{said}; it asks to wait {pause:.0f} s")
        passing = status in _PASSING or status >= 500
        hopeless, refusing = status in _HOPELESS, status in _REFUSING
        return RequestFailed(
            kind, said, passing=passing, hopeless=hopeless, refusing=refusing, retry_after=pause
        )

    def _reply(self, content: bytes) -> Reply:
        """The answer in a response of status 200; one that is no chat completion may be a passing trouble."""
        try:
            found = json.loads(content)
            choice = found["choices"][0]
            text = _said(choice["message"])
        except (ValueError, RecursionError, LookupError, TypeError) as error:
            said = self._shown(content.decode("utf-8", "replace"))
            raise RequestFailed("its reply is no chat completion", said, passing=True) from error
        tokens = found["usage"] if isinstance(found.get("usage"), dict) else {}
        for name, key in (("input_tokens", "prompt_tokens"), ("output_tokens", "completion_tokens")):
            self._usage[name] += _count(tokens.get(key))
        return Reply(text, self.without_key(text), choice.get("finish_reason") == "length")

    def without_key(self, text: str) -> str:
        """`text` with the key blotted out, which some servers repeat, perhaps as it stands in JSON."""
        for key in (self._key, (self._key or "").replace("/", "\\/")):
            text = text.replace(key, "***") if key else text
        return text

    def _shown(self, text: str) -> str:
        line = " ".join(self.without_key(text).split())
        return line if len(line) <= _SHOWN else f"{line[:_SHOWN]}..."


def _count(tokens: Any) -> int:
    """Tokens as a server counts them, by some as `10.0` or as a text; 0 for what is no count."""
    try:
        count = float(tokens)
    except (TypeError, ValueError, OverflowError):
        return 0
    return int(count) if 0 <= count <= _MOST_TOKENS else 0


def _said(message: Mapping[str, Any]) -> str:
    """The content, or where there is none what a reasoning model thought. Raises TypeError, LookupError."""
    found = [message[name] for name in ("content", "reasoning_content", "reasoning") if name in message]
    if not found:
        raise LookupError("content")
    content, *thoughts = found
    if isinstance(content, list):
        # As in Mistral's reasoning models: beside the text there are parts of type `thinking`.
        content = "".join(part["text"] for part in content if part["type"] == "text")
    if not isinstance(content, str | None):
        raise TypeError(f"the content is a {type(content).__name__}")
    texts = [text for text in (content, *thoughts) if isinstance(text, str)]
    said = next((text for text in texts if without_thoughts(text)), "")
    # JSON may hold half a surrogate pair, which neither a file nor a request has bytes for.
    return said.encode("utf-8", "replace").decode()


def backoff(first: float, question: str, attempt: int) -> float:
    """Seconds to wait after the attempt of this number, from 0: half to all of first · 2^attempt."""
    jitter = random.Random(derive_seed(0, "judge back-off", question, attempt)).random()
    # Capped before it is raised to a power that no float holds.
    return min(first * 2 ** min(attempt, 60), _LONGEST_BACKOFF_SECONDS) * (1 + jitter) / 2


def _retry_after(header: str | None) -> float:
    """Seconds that the header asks for, given as such or as a date; 0 where it asks for nothing."""
    if not header:
        return 0.0
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):
            return 0.0
    return seconds if seconds > 0 else 0.0


async def _limited(response: httpx2.Response) -> bytes:
    """The body, which a broken server may never end."""
    content = bytearray()
    async for piece in response.aiter_bytes():
        content += piece
        if len(content) > _LONGEST_REPLY:
            raise RequestFailed(f"its reply is longer than {_LONGEST_REPLY} bytes")
    return bytes(content)
