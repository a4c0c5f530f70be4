"""`rewards` with `type: judge`: a language model behind an HTTP interface that scores completions."""

from __future__ import annotations

import json
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from .base import Section
from .reward_base import RewardBase

RUBRIC_VARIABLES = (
    "prompt",
    "completion",
    "preference_group",
    "preference_group_rubric",
    "columns",
    "reference",
)
"""What a rubric may use. `reference` is `columns.reference`; undefined where a row has none."""

DEFAULT_RUBRIC = """\
How well does the answer serve the user who asked? The user belongs to the group "{{ preference_group }}".
{{ preference_group_rubric }}

<conversation>
{{ prompt }}
</conversation>
<answer>
{{ completion }}
</answer>
"""


class TokenPrice(Section):
    """What a million tokens cost, in a currency of your choice."""

    input: float = Field(ge=0, description="Price of a million tokens of the prompt.")
    output: float = Field(ge=0, description="Price of a million tokens of the answer.")


class JudgeReward(RewardBase):
    """A score by a language model behind any OpenAI-compatible chat-completions interface (docs/judge.md).

    It is asked while the model samples. A completion that it cannot score gets no reward, never 0; a judge
    that fails too often stops the run, which goes on from there by the same command. Answers are kept on
    disk, so no question is paid for twice. A judge on another machine needs `--allow-host HOST`.
    """

    type: Literal["judge"] = "judge"
    base_url: str = Field(description="Address above `/chat/completions`, such as http://localhost:8000/v1.")
    model: str = Field(min_length=1, description="Name of the model, as the server knows it.")
    api_key_env: str | None = Field(
        None,
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        description="Environment variable that holds the key, never the key itself. Null: no key is sent.",
    )
    rubric: str = Field(
        DEFAULT_RUBRIC,
        description="What the judge reads: a Jinja template over " + ", ".join(RUBRIC_VARIABLES) + ". "
        "What it may do stands under Templates in docs/data.md.",
    )
    preference_group_rubrics: dict[str, str] = Field(
        {},
        description="Instructions by preference group, which the rubric has as `preference_group_rubric`.",
    )
    scale: tuple[float, float] = Field((1, 10), description="Lowest and highest score.")
    raw: bool = Field(False, description="Keep scores as given, instead of mapping the scale to [0, 1].")
    max_tokens: int = Field(256, ge=1, description="Longest answer of the judge, in tokens.")
    temperature: float | None = Field(
        0, ge=0, description="The judge's sampling temperature. Null: the server's own."
    )
    response_format: Literal["json_object"] | None = Field(
        None, description="`json_object` asks the server for JSON, if it knows how."
    )
    extra_body: dict[str, Any] = Field(
        {}, description="Further keys of the request, such as `reasoning_effort`."
    )
    concurrency: int = Field(8, ge=1, description="Requests in flight at once, at most.")
    timeout_s: float = Field(60, gt=0, description="Seconds that one request may take.")
    retries: int = Field(
        4, ge=0, description="Further attempts after a request that failed in a way that may pass."
    )
    backoff_s: float = Field(
        1, gt=0, description="Seconds before the first further attempt; doubles with each one."
    )
    max_failure_share: float = Field(
        0.5, ge=0, le=1, description="The run stops when more than this share of a window failed."
    )
    failure_window: int = Field(
        50, ge=1, description="Latest completions put to the judge of which that share is taken."
    )
    cache: str | None = Field(
        None,
        description="SQLite file of the answers; a relative path starts at the recipe's folder. "
        "Null: judge.sqlite in the run directory.",
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
        try:
            json.dumps(value, allow_nan=False)
        except (ValueError, TypeError) as error:
            raise ValueError(f"cannot be sent as JSON: {error}") from error
        return value

    @property
    def host(self) -> str:
        """The machine that prompts and completions are sent to."""
        return urlsplit(self.base_url).hostname or ""
