"""`engine`: what computes the steps of a run, and what the engine trl cannot express of a recipe."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field

from .base import Section, Violation
from .evaluation import EvalSection
from .model import AdapterSection, ModelSection
from .training import HistorySection, RolloutSection, TrainSection


class NativeEngine(Section):
    """pgrpo's own engine: one device, a GPU or a CPU."""

    type: Literal["native"] = "native"


class VllmSection(Section):
    """vLLM generates the completions. Further arguments that begin with `vllm_` go to `engine.args`."""

    mode: Literal["colocate", "server"] = Field(
        "colocate",
        description="`colocate`: on the GPUs that train; `server`: on others, where `trl vllm-serve` runs.",
    )
    gpu_memory_utilization: float = Field(
        0.3, gt=0, lt=1, description="With `colocate`: share of a GPU's memory that vLLM takes."
    )
    tensor_parallel_size: int = Field(
        1, ge=1, description="With `colocate`: GPUs that a copy of the model is spread over."
    )
    max_model_length: int | None = Field(
        None,
        ge=1,
        description="With `colocate`: longest prompt with its completion, in tokens. Null: the model's.",
    )
    server_base_url: str | None = Field(
        None,
        description="With `server`: its address, such as http://10.0.0.2:8000; another machine needs "
        "--allow-host. Null: this machine, port 8000.",
    )


class TrlEngine(Section):
    """TRL's GRPOTrainer under Accelerate: one process per GPU, on one node or several."""

    type: Literal["trl"] = "trl"
    args: dict[str, Any] = Field(
        default_factory=dict,
        description="Further arguments of TRL's GRPOConfig by their names, such as "
        "{dataloader_num_workers: 2}. What the recipe has a key for is set by that key.",
    )
    vllm: VllmSection | None = Field(None, description="Generate with vLLM. Null: with transformers.")


Engine = Annotated[NativeEngine | TrlEngine, Field(discriminator="type")]


def trl_can_express(
    engine: Engine, model: ModelSection, adapter: AdapterSection, rollout: RolloutSection,
    history: HistorySection, train: TrainSection, eval: EvalSection,
) -> Iterator[Violation]:  # fmt: skip
    """What the engine trl does not do is refused, and never left out in silence."""
    if not isinstance(engine, TrlEngine):
        return
    refused = (
        (("adapter", "dropout"), adapter.dropout, 0.0, "TRL would sample with dropout on; set it to 0"),
        (
            ("rollout", "tokens_per_batch"), rollout.tokens_per_batch, "auto",
            "TRL decodes all completions of a process together; set it to auto",
        ),
        (
            ("history", "preference_groups"), history.preference_groups, "named",
            "only the native engine makes the control of random preference groups; set it to named",
        ),
        (
            ("train", "deterministic"), train.deterministic, False,
            "set engine.args.full_determinism instead, which is TRL's",
        ),
        (
            ("eval", "every"), eval.every, None,
            "only the native engine evaluates while it trains; remove it, and run pgrpo eval --checkpoint",
        ),
    )  # fmt: skip
    for path, found, allowed, remedy in refused:
        if found != allowed:
            yield Violation(path, found, f"engine.type is 'trl': {remedy}")
    if model.compute_dtype == "float16":
        rule = "engine.type is 'trl', which scales no loss of an adapter; take bfloat16 or float32"
        yield Violation(("model", "compute_dtype"), "float16", rule)
    if model.device.startswith("cuda:"):
        rule = (
            "engine.type is 'trl', and each process gets its GPU from the launcher; take cuda, and set "
            "CUDA_VISIBLE_DEVICES"
        )
        yield Violation(("model", "device"), model.device, rule)
    yield from _vllm_cannot(engine.vllm, model)


def _vllm_cannot(vllm: VllmSection | None, model: ModelSection) -> Iterator[Violation]:
    """Models that vLLM cannot load, or whose weights TRL cannot send to it."""
    if vllm is None:
        return
    if model.id == "random" or model.id.startswith("package:") or model.id.endswith(".gguf"):
        rule = f"vLLM loads a model from a hub or a folder, and model.id is {model.id!r}; remove engine.vllm"
        yield Violation(("engine", "vllm"), vllm.mode, rule)
    if model.device == "cpu":
        yield Violation(
            ("engine", "vllm"), vllm.mode, "vLLM needs a GPU, and model.device is cpu; remove engine.vllm"
        )
    if vllm.mode == "server" and model.quantization.type == "nf4":
        rule = (
            "TRL sends the weights as this process holds them, packed to 4 bits, and the server's are not; "
            "set model.quantization to {type: none}, or engine.vllm.mode to colocate"
        )
        yield Violation(("engine", "vllm", "mode"), "server", rule)
    if vllm.server_base_url is not None and vllm.mode != "server":
        rule = "only a server has an address; set engine.vllm.mode to server, or remove it"
        yield Violation(("engine", "vllm", "server_base_url"), vllm.server_base_url, rule)
