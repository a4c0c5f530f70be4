"""What the checks find, as JSON: the schema of `pgrpo selfcheck --json` is made from these types.

A field's description and unit are what both the schema and the table say of it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from pgrpo_cli import __version__

Status = Literal["ok", "failed", "skipped"]


Number = float | None
"""A measured number. In JSON it is null where it is not finite, which JSON cannot say, or does not apply."""


SENTENCE = "sentence"
"""The unit of a text that stands by itself."""


def measured(unit: str, description: str) -> Any:
    """A field with a unit: `s`, `ms`, `bytes`, `bytes/s`, `FLOP/s`, `share` (1 is all of it), or none."""
    return Field(description=description, json_schema_extra={"unit": unit})


class Found(BaseModel):
    """What a check has measured."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Versions(Found):
    """What is installed."""

    python: str = Field(description="Version of Python.")
    pgrpo: str = Field(description="Version of pgrpo.")
    torch: str = Field(description="Version of torch.")
    cuda: str | None = Field(description="Version of CUDA that torch is built for; null: none.")
    driver: str | None = Field(description="Version of NVIDIA's driver; null: none was found.")
    transformers: str = Field(description="Version of transformers.")
    peft: str = Field(description="Version of peft.")
    bitsandbytes: str = Field(description="Version of bitsandbytes.")
    platform: str = Field(description="Operating system and processor.")


class Device(Found):
    """What computes."""

    device: str = Field(description="As torch names it.")
    says: str = measured(SENTENCE, "What every command says of it when it begins.")
    capability: str | None = Field(description="Compute capability; null on a CPU.")
    multiprocessors: int | None = Field(description="Number of streaming multiprocessors; null on a CPU.")
    total_bytes: int = measured("bytes", "Its memory.")
    free_bytes: int | None = measured("bytes", "Memory that is free; null: the system does not say.")
    compute_dtype: str = Field(description="What `model.compute_dtype: auto` stands for there.")
    shape: str = Field(description="Shape of the model that the checks build.")


class Rates(Found):
    """What the device reaches at its best: what the other checks are compared with."""

    copy_rate: Number = measured("bytes/s", "Bytes read and written a second by a large copy.")
    half_dtype: str = Field(description="The 16-bit type that models compute in there.")
    half_rate: Number = measured("FLOP/s", "Operations a second of a large product in that type.")
    float32_rate: Number = measured("FLOP/s", "The same in float32.")


class Model(Found):
    """The model of the checks: random weights, the product's own adapter and probe."""

    parameters: int = Field(description="Parameters of the base model.")
    adapter_parameters: int = Field(description="Parameters of the adapter.")
    build_seconds: Number = measured("s", "Time to make and quantize the weights.")
    probe_seconds: Number = measured("s", "Time to put the adapter on and to probe the paths.")
    held_bytes: int | None = measured("bytes", "Memory that the policy holds; null on a CPU.")
    peak_bytes: int | None = measured("bytes", "Most memory while it was made; null on a CPU.")
    packed: bool = Field(description="Whether training packs the completions of a prompt behind it.")
    shared_prefix: bool = Field(description="Whether rollouts share a prompt's prefix.")
    graphs: bool | None = Field(
        description="Whether decode steps may be captured in CUDA graphs; null on a CPU."
    )
    copy_from_rows: int | None = Field(
        description="Rows from which on a dequantized copy of the weights is faster; null: never, or a CPU."
    )


class Gradient(Found):
    """LoRA gradients on NF4 weights after a rollout, beside those on the same weights dequantized."""

    layers: int = Field(description="Quantized layers of the model that was tried.")
    error: Number = measured("share", "Norm of the difference over the norm of the gradient.")


class ResumedRun(Found):
    """A third step, made in a row with the others and again from the checkpoint of the second."""

    deterministic: bool = Field(description="The recipe's `train.deterministic`.")
    bit_for_bit: bool = Field(description="Whether adapter and optimizer states are the same in every bit.")
    difference: Number = measured(
        "share", "Norm of the difference of the adapters over the norm of what the step changed."
    )
    largest_difference: Number = measured("", "Largest difference of a weight of the adapter.")
    differing_states: int = Field(description="Tensors of the optimizer's state that differ.")
    states: int = Field(description="Tensors of the optimizer's state.")
    step_seconds: Number = measured("s", "Time of a step of that run, checkpoints included.")


class Resume(Found):
    """Runs of three steps with `adamw_8bit` that continue from a checkpoint."""

    runs: tuple[ResumedRun, ...] = Field(description="On a GPU with deterministic kernels, too.")


class Probe(Found):
    """The probe of the fast paths, repeated: differences of a token's log-probability."""

    seeds: int = Field(description="How often it was repeated.")
    passed: int = Field(description="How often all fast paths were found exact.")
    packed_mean: Number = measured("", "Packed against padded rows: mean over all seeds.")
    packed_worst_mean: Number = measured("", "The largest mean of a seed.")
    packed_max: Number = measured("", "The largest difference.")
    prefix_mean: Number = measured("", "Shared prefix against padded rows: mean over all seeds.")
    prefix_worst_mean: Number = measured("", "The largest mean of a seed.")
    prefix_max: Number = measured("", "The largest difference.")


class Graphs(Found):
    """CUDA graphs of decode steps."""

    captured: int = Field(description="Number of graphs that a rollout captured.")
    first_seconds: Number = measured("s", "Time of a rollout that captures them.")
    next_seconds: Number = measured("s", "Time of the same rollout that replays them.")
    capture_seconds: Number = measured("s", "The difference: what capturing takes.")


class DecodeTime(Found):
    """The time of one token of all rows."""

    rows: int = Field(description="Completions that are decoded together.")
    graphs: bool = Field(description="Whether steps are replayed from CUDA graphs.")
    copy_of_weights: bool = Field(description="Whether rows multiply by a dequantized copy of the weights.")
    token_ms: Number = measured("ms", "Time of one token of every row.")
    tokens_per_s: Number = measured("", "Tokens a second of all rows together.")
    bandwidth_share: Number = measured("share", "Of the time, what reading weights and cache must take.")


class Decoding(Found):
    """How fast rollouts decode."""

    prompt_tokens: int = Field(description="Tokens of each prompt; each has 8 completions.")
    times: tuple[DecodeTime, ...] = Field(description="By rows, graphs and copy of the weights.")


class Kernels(Found):
    """What a decode step makes the host do."""

    launches_per_token: Number = measured("", "Kernels that the host launches a token, without graphs.")
    launches_per_token_in_graphs: Number = measured("", "Launches a token with graphs, theirs included.")


class UpdateTime(Found):
    """An update of the policy with one budget."""

    budget: int = Field(description="Tokens that a micro-batch may hold.")
    budget_left: int = Field(description="The same after the update: less where memory ran out.")
    tokens: int = Field(description="Tokens that went through the model, padding included.")
    seconds: Number = measured("s", "Time of the update.")
    peak_bytes: int | None = measured("bytes", "Most memory meanwhile; null on a CPU.")
    matrix_share: Number = measured("share", "Of the rate of a large product, what the update reaches.")


class Update(Found):
    """How fast the policy is trained."""

    gradient_checkpointing: bool = Field(description="Whether activations are computed a second time.")
    times: tuple[UpdateTime, ...] = Field(description="By budget.")


class Plan(Found):
    """What `pgrpo plan` says, beside what three steps of a run held."""

    tokens_per_batch: int = Field(description="Budget of a rollout batch, as a run chooses it here.")
    tokens_per_micro_batch: int = Field(description="Budget of a micro-batch, likewise.")
    planned_bytes: int = measured("bytes", "Tensors at the planned peak.")
    measured_bytes: int = measured("bytes", "Tensors at the peak of the three steps.")
    ratio: Number = measured("", "Planned over measured.")


class Drill(Found):
    """Memory was made to run out."""

    where: Literal["rollout", "graph capture", "update"] = Field(description="What it ran out in.")
    ran_out: bool = Field(description="Whether it did, at the limits that were tried.")
    budget: int | None = Field(description="Tokens at a time before; null where no budget is lowered.")
    budget_left: int | None = Field(description="The same afterwards.")
    graphs: int | None = Field(description="Graphs that are kept afterwards; null where there are none.")
    difference: Number = measured("share", "How far the result is from that with enough memory.")


class OutOfMemory(Found):
    """A run continues in smaller pieces, with the same result but for rounding."""

    drills: tuple[Drill, ...] = Field(description="One for each place.")


AnyFound = (
    Versions | Device | Rates | Model | Gradient | Resume | Probe | Graphs | Decoding | Kernels | Update
    | Plan | OutOfMemory
)  # fmt: skip


class CheckResult(BaseModel):
    """One check."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="Name of the check, as `--only` takes it.")
    status: Status = Field(description="`failed` is what has to be looked into.")
    reason: str | None = Field(None, description="Why it failed or was skipped.")
    seconds: float = Field(0.0, description="Time that it took.", json_schema_extra={"unit": "s"})
    found: AnyFound | None = Field(None, description="What was measured; its fields differ by check.")
    trace: str | None = Field(None, description="Traceback of an unexpected error.")


class Report(BaseModel):
    """The whole of `pgrpo selfcheck --json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = Field(1, description="Version of this format.")
    pgrpo: str = Field(__version__, description="Version of pgrpo.")
    seconds: float = Field(description="Time of all checks.", json_schema_extra={"unit": "s"})
    ok: int = Field(description="Checks that are ok.")
    failed: int = Field(description="Checks that failed; the exit code is 1 unless it is 0.")
    skipped: int = Field(description="Checks that were skipped.")
    results: tuple[CheckResult, ...] = Field(description="In the order in which they ran.")


def report_of(results: Sequence[CheckResult], seconds: float) -> Report:
    """The results with their counts."""
    statuses = [result.status for result in results]
    return Report(
        seconds=seconds,
        ok=statuses.count("ok"),
        failed=statuses.count("failed"),
        skipped=statuses.count("skipped"),
        results=tuple(results),
    )


def schema_text() -> str:
    """The JSON Schema of `Report`."""
    schema = Report.model_json_schema(mode="serialization")
    return json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}, indent=2)
