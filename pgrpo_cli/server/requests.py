"""A request for an answer, in OpenAI's form, as far as it is understood.

A field that would change the answer and cannot be heeded is refused unless it asks for what is done anyway;
fields that change nothing (`user`, `store`, `metadata`, …) and unknown ones are ignored, as vLLM does.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from pgrpo_cli.data.records import Message

MOST_MESSAGES = 500
MOST_TOKENS = 32_768
"""Of an answer; the model's context is the other limit."""

_ONLY: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "top_k": (0, -1),
    "min_p": (0,),
    "tools": ([],),
    "functions": ([],),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
}
"""Fields that are not supported, and the values that ask for nothing."""


class _Form(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


def _joined(content: Any) -> Any:
    """The text of a content that comes in parts."""
    if not isinstance(content, list):
        return content or ""
    for part in content:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise ValueError("only text is understood: a string, or parts {type: text, text: …}")
    return "\n".join(part["text"] for part in content)


class ChatMessage(_Form):
    """`developer` is OpenAI's newer name for `system`."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, BeforeValidator(_joined)] = ""

    def as_message(self) -> Message:
        """The message as templates take it."""
        return {"role": "system" if self.role == "developer" else self.role, "content": self.content}


class StreamOptions(_Form):
    """`include_usage`: the last chunk tells how many tokens there were."""

    include_usage: bool | None = None


def _is_answerable(messages: list[ChatMessage]) -> list[ChatMessage]:
    if messages[-1].role != "user":
        raise ValueError(f"the last one is the {messages[-1].role}'s; there must be a user's to answer")
    return messages


Conversation = Annotated[
    list[ChatMessage], Field(min_length=1, max_length=MOST_MESSAGES), AfterValidator(_is_answerable)
]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]
StopText = Annotated[str, Field(min_length=1, max_length=200)]


class ChatRequest(_Form):
    """The body of `POST /v1/chat/completions`."""

    model_config = ConfigDict(extra="allow")

    model: str
    messages: Conversation
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    max_tokens: int | None = Field(None, ge=1, le=MOST_TOKENS)
    max_completion_tokens: int | None = Field(None, ge=1, le=MOST_TOKENS)
    seed: Seed | None = None
    stop: StopText | Annotated[list[StopText], Field(max_length=4)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @model_validator(mode="after")
    def _asks_for_nothing_else(self) -> ChatRequest:
        for name, value in (self.model_extra or {}).items():
            if value is not None and name in _ONLY and value not in _ONLY[name]:
                only = " or ".join(map(repr, _ONLY[name]))
                raise ValueError(f"{name} is not supported{f'; only {only} is' if only else ''}")
        return self

    @property
    def limit(self) -> int | None:
        """The longest answer, in tokens; None where the request names none."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def stops(self) -> list[str]:
        """Texts before which the answer ends."""
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or ())

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with the numbers of tokens."""
        return bool(self.stream_options and self.stream_options.include_usage)
