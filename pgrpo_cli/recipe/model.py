"""`model` and `adapter`: what is fine-tuned, and how it is kept small."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator

from .base import IS_PATH, Section, Violation
from .templates import ChatTemplate, TemplateProblem

_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*")


def _path_or_id(name: str) -> str:
    path = name.startswith((".", "/", "~", "package:")) or name.endswith(".gguf") or "$" in name
    if not path and not _ID.fullmatch(name):
        raise ValueError(
            "a hub id has letters, digits, '.', '_' and '-' only; begin the path of a local folder with ./"
        )
    return name


ModelName = Annotated[str, Field(min_length=1), AfterValidator(_path_or_id), IS_PATH]
"""Names a pretrained model: the path of a folder or file, or the id of a hub."""


def device_wish(wish: str) -> str:
    """The same text. Raises ValueError where it is no device."""
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,3})?", wish):
        raise ValueError("must be auto, cpu, cuda, or cuda: and the number of a GPU, such as cuda:1")
    return wish


DeviceWish = Annotated[str, AfterValidator(device_wish)]


class NoQuantization(Section):
    """Weights stay in the compute dtype."""

    type: Literal["none"] = "none"


class Nf4Quantization(Section):
    """QLoRA: 4-bit NormalFloat weights (bitsandbytes), dequantized layer by layer for each product."""

    type: Literal["nf4"] = "nf4"
    double: bool = Field(
        True, description="Quantize the quantization constants too (saves about 0.4 bits per weight)."
    )


CHAT_ARGUMENTS = frozenset(
    {"messages", "conversation", "tools", "documents", "chat_template", "add_generation_prompt"}
    | {"continue_final_message", "tokenize", "sanitize_control_tokens", "padding", "truncation", "max_length"}
    | {"return_tensors", "return_dict", "return_assistant_tokens_mask", "tokenizer_kwargs"}
)
"""Names that mean something to transformers' apply_chat_template, and are no variables of the user's."""

Quantization = Annotated[NoQuantization | Nf4Quantization, Field(discriminator="type")]


class RandomModel(Section):
    """A tiny randomly initialised Llama made on the spot: for tests and bug reports, it knows no language."""

    hidden_size: int = Field(32, ge=8, le=8192, description="Width of the residual stream, in features.")
    num_layers: int = Field(2, ge=1, le=256, description="Number of transformer layers.")
    num_heads: int = Field(
        4, ge=1, le=1024, description="Attention heads; twice their number must divide hidden_size."
    )
    context: int = Field(2048, ge=32, le=1_000_000, description="Longest sequence, in tokens.")

    def violations(self) -> Iterator[Violation]:
        """The heads share the width equally; rotary positions need an even number of features per head."""
        if self.hidden_size % (2 * self.num_heads):
            rule = (
                f"twice this number must divide model.random.hidden_size ({self.hidden_size}); "
                "change the one or the other"
            )
            yield Violation(("num_heads",), self.num_heads, rule)


class ModelSection(Section):
    """The base model."""

    id: ModelName = Field(
        description="A hub id, a local directory, a .gguf file, `package:PACKAGE/FILE.gguf` (a file inside "
        "an installed Python package), or `random` (see `model.random`).",
    )
    revision: str | None = Field(None, description="Branch, tag or commit of a hub id.")
    quantization: Quantization = Field(
        Nf4Quantization(), description="How the base model's weights are stored."
    )
    compute_dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        "auto",
        description="Dtype of computation. `auto` is bfloat16, and float16 on GPUs that only "
        "emulate that; a run keeps the one that it began with.",
    )
    device: DeviceWish = Field(
        "auto",
        description="Where models compute: `cpu`, `cuda`, `cuda:1` and so on; `auto` is the first GPU, or "
        "the CPU where there is none. The option `--device` comes first; another one may resume a run.",
    )
    attention: Literal["sdpa", "eager"] = Field(
        "sdpa",
        description="Attention implementation of transformers. Gemma 2, gpt-oss and some others have only "
        "`eager`.",
    )
    system_prompt: str | None = Field(
        None,
        description="Put before every prompt that has no system message of its own; it begins the first user "
        "message where the chat template has no place for a system message. An empty text is an empty system "
        "message. Null: none is added.",
    )
    chat_template: str | None = Field(
        None,
        min_length=1,
        description="Used in place of the model's own chat template: a path that ends in .jinja, or the "
        "template itself. Null: the model's own.",
    )
    chat_template_kwargs: dict[str, Any] = Field(
        default_factory=dict,
        description="Passed to the chat template, such as {enable_thinking: false} for Qwen3.",
    )
    random: RandomModel = Field(RandomModel(), description="Shape of the model when `id` is `random`.")

    @field_validator("id")
    @classmethod
    def _names_a_file(cls, name: str) -> str:
        scheme, colon, rest = name.partition(":")
        package, _, file = rest.partition("/")
        if scheme == "package" and colon and not (package and file):
            raise ValueError(
                "must be package:PACKAGE/FILE, where FILE is a path inside the installed package"
            )
        return name

    @field_validator("chat_template")
    @classmethod
    def _path_or_template(cls, text: str | None) -> str | None:
        if text is None or text.endswith(".jinja"):
            return text
        if "{{" not in text and "{%" not in text:
            raise ValueError("neither a path that ends in .jinja nor a template, which has {{ }}")
        try:
            ChatTemplate(text)
        except TemplateProblem as problem:
            raise ValueError(f"not a template that can be used: {problem}") from problem
        return text

    @field_validator("chat_template_kwargs")
    @classmethod
    def _variables(cls, values: dict[str, Any]) -> dict[str, Any]:
        if taken := sorted(CHAT_ARGUMENTS & values.keys()):
            remedy = "; set model.chat_template for another template" if "chat_template" in taken else ""
            raise ValueError(f"must not have {', '.join(taken)}, which are set otherwise{remedy}")
        return values

    def violations(self) -> Iterator[Violation]:
        """Only hub models have revisions."""
        name = self.id
        local = name == "random" or name.startswith("package:") or name.endswith(".gguf")
        if local and self.revision is not None:
            rule = f"only a model of a hub has revisions, and model.id is {name!r}; remove it"
            yield Violation(("revision",), self.revision, rule)

    @property
    def chat_template_file(self) -> str | None:
        """The path, where `chat_template` is one."""
        return self.chat_template if self.chat_template and self.chat_template.endswith(".jinja") else None


class AdapterSection(Section):
    """The LoRA adapter, the only part that is trained."""

    r: int = Field(16, ge=1, le=4096, description="Rank.")
    alpha: float = Field(32.0, ge=1e-6, le=1e6, description="Scale of the update: alpha / r multiplies B·A.")
    dropout: float = Field(0.0, ge=0, le=0.99, description="Dropout on the adapter's input during training.")
    target_modules: str | tuple[str, ...] = Field(
        "all-linear",
        description="Names of the linear layers that get an adapter, such as [q_proj, v_proj], or "
        "`all-linear` (all but the output layer).",
    )
    use_rslora: bool = Field(False, description="Scale by alpha / sqrt(r) instead of alpha / r.")

    @field_validator("target_modules")
    @classmethod
    def _names(cls, targets: str | tuple[str, ...]) -> str | tuple[str, ...]:
        # PEFT would take any other text for a regular expression.
        if targets != "all-linear" and (isinstance(targets, str) or not targets or not all(targets)):
            raise ValueError("must be all-linear or a list of names, such as [q_proj, v_proj]")
        return targets
