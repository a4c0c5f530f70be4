"""What every judge has: a language model behind an OpenAI-compatible chat-completions interface."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from .base import GroupName, Section, Violation
from .messages import did_you_mean
from .templates import Template


class TokenPrice(Section):
    """What a million tokens cost, in a currency of your choice."""

    input: float = Field(ge=0, description="Price of a million tokens of the prompt.")
    output: float = Field(ge=0, description="Price of a million tokens of the answer.")


class JudgeSection(Section):
    """How a judge is reached and asked."""

    base_url: str = Field(description="Address above `/chat/completions`, such as http://localhost:8000/v1.")
    model: str = Field(min_length=1, description="Name of the model, as the server knows it.")
    api_key_env: str | None = Field(
        None,
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        description="Environment variable that holds the key, never the key itself. Null: no key is sent.",
    )
    preference_group_rubrics: dict[GroupName, str] = Field(
        {},
        description="Instructions by preference group, which the rubric has as `preference_group_rubric`.",
    )
    max_tokens: int | None = Field(
        256,
        ge=1,
        le=1_000_000,
        description="Longest answer of the judge, in tokens; sent as `max_completion_tokens` to a server "
        "that asks for that. Null: the server's own limit.",
    )
    temperature: float | None = Field(
        0, ge=0, le=100, description="The judge's sampling temperature. Null: the server's own."
    )
    response_format: Literal["json_object"] | None = Field(
        None, description="`json_object` asks the server for JSON, if it knows how."
    )
    extra_body: dict[str, Any] = Field(
        {}, description="Further keys of the request, such as `reasoning_effort`."
    )
    concurrency: int = Field(8, ge=1, le=1000, description="Maximum number of simultaneous requests.")
    timeout_s: float = Field(60, ge=1e-3, le=86_400, description="Seconds that one request may take.")
    retries: int = Field(
        4, ge=0, le=20, description="How often a request is repeated after an error that may be temporary."
    )
    backoff_s: float = Field(
        1, ge=1e-3, le=600, description="Seconds before the first repetition; doubled for each further one."
    )
    max_failure_share: float = Field(
        0.5,
        ge=0,
        le=1,
        description="The run stops when more than this share of a window failed, and in any case where no "
        "question of a step or portion, nor one before, had an answer that can be used.",
    )
    failure_window: int = Field(
        50, ge=1, le=1_000_000, description="Number of latest requests over which that share is computed."
    )
    price_per_million_tokens: TokenPrice | None = Field(
        None, description="Prices, for the cost in metrics.jsonl and at the end of a command."
    )

    @field_validator("base_url")
    @classmethod
    def _is_address(cls, value: str) -> str:
        try:
            parts = urlsplit(value)
            host, _ = parts.hostname, parts.port
        except ValueError as error:
            raise ValueError(f"no address: {error}") from error
        if parts.scheme not in ("http", "https") or not host:
            raise ValueError("must begin with http:// or https:// and name a host")
        if parts.username is not None or parts.query or parts.fragment:
            raise ValueError("holds more than scheme, host, port and path; a key belongs into api_key_env")
        return value.rstrip("/")

    @field_validator("extra_body")
    @classmethod
    def _leaves_the_rest(cls, value: dict[str, Any]) -> dict[str, Any]:
        own = ("model", "messages", "max_tokens", "temperature", "response_format", "stream", "n")
        taken = [key for key in own if key in value]
        if taken:
            raise ValueError(f"must not hold {taken[0]!r}, which this program sets itself")
        if "max_completion_tokens" in value:
            raise ValueError(
                "must not hold 'max_completion_tokens'; set max_tokens, which is sent by that name too"
            )
        return value

    @property
    def host(self) -> str:
        """The machine that prompts and completions are sent to."""
        return urlsplit(self.base_url).hostname or ""

    def rubric_violations(
        self, rubric: str, known: Sequence[str], needed: Sequence[str]
    ) -> Iterator[Violation]:
        """What is wrong with a rubric that may use the variables `known` and must use those `needed`."""
        used = Template(rubric).variables
        unknown = sorted(used.difference(known))
        if unknown:
            hint = did_you_mean(unknown[0], known)
            rule = f"uses {unknown[0]!r}; known are {', '.join(known)}{hint}"
            yield Violation(("rubric",), rubric, rule)
        elif missing := [name for name in needed if name not in used]:
            add = f"add {{{{ {missing[0]} }}}}"
            rule = f"does not use {missing[0]!r}, so that every answer would be judged alike; {add}"
            yield Violation(("rubric",), rubric, rule)
        elif self.preference_group_rubrics and "preference_group_rubric" not in used:
            rule = "the rubric must use {{ preference_group_rubric }}, or the judge never sees them"
            yield Violation(("preference_group_rubrics",), self.preference_group_rubrics, rule)
