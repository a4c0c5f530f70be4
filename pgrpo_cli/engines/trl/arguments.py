"""From a recipe to the arguments of TRL's GRPOConfig: one table, and `engine.args` for the rest."""

from __future__ import annotations

import typing
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

from accelerate.utils import patch_environment
from pydantic import ConfigDict, TypeAdapter, ValidationError
from trl import GRPOConfig

from pgrpo_cli.errors import RecipeError
from pgrpo_cli.names import nearest
from pgrpo_cli.recipe.engine import TrlEngine, VllmSection
from pgrpo_cli.recipe.schema import Recipe
from pgrpo_cli.recipe.shape import describe

LOSS_TYPES = {"sequence_mean": "grpo", "token_mean": "dapo", "constant": "dr_grpo"}
"""TRL's name of each aggregation."""
OPTIMIZERS = {"adamw": "adamw_torch", "adamw_8bit": "adamw_bnb_8bit"}
_LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "::1", "0.0.0.0"})


@dataclass(frozen=True)
class Entry:
    """A key of the recipe and the argument of GRPOConfig that it becomes."""

    key: str
    argument: str
    convert: Callable[[Any], Any] = lambda value: value


TABLE = (
    Entry("seed", "seed"),
    Entry("model.compute_dtype", "bf16", lambda dtype: dtype == "bfloat16"),
    Entry("rollout.num_generations", "num_generations"),
    Entry("rollout.max_completion_tokens", "max_completion_length"),
    Entry("rollout.temperature", "temperature"),
    Entry("rollout.top_p", "top_p"),
    Entry("rollout.top_k", "top_k"),
    Entry("loss.aggregation", "loss_type", LOSS_TYPES.__getitem__),
    Entry("loss.clip_low", "epsilon"),
    Entry("loss.clip_high", "epsilon_high"),
    Entry("loss.beta", "beta"),
    Entry("train.updates_per_rollout", "num_iterations"),
    Entry("train.optimizer.type", "optim", OPTIMIZERS.__getitem__),
    Entry("train.optimizer.beta1", "adam_beta1"),
    Entry("train.optimizer.beta2", "adam_beta2"),
    Entry("train.optimizer.epsilon", "adam_epsilon"),
    Entry("train.optimizer.weight_decay", "weight_decay"),
    Entry("train.learning_rate", "learning_rate"),
    Entry("train.schedule", "lr_scheduler_type"),
    Entry("train.warmup_steps", "warmup_steps"),
    Entry("train.max_grad_norm", "max_grad_norm"),
    Entry("train.gradient_checkpointing", "gradient_checkpointing"),
)
"""Keys that become one argument each."""

DERIVED = {
    "max_steps": "train.steps and train.updates_per_rollout",
    "per_device_train_batch_size": "train.prompts_per_step and train.tokens_per_micro_batch",
    "gradient_accumulation_steps": "train.prompts_per_step and train.tokens_per_micro_batch",
    "activation_checkpointing": "train.gradient_checkpointing",
    "use_cpu": "model.device",
    "use_vllm": "engine.vllm",
    **{f"vllm_{key}": f"engine.vllm.{key}" for key in VllmSection.model_fields},
}
"""Arguments that follow from several keys, or from what a run finds."""

OURS = {
    # Its KL penalty has the gradient of the native engine's only without this.
    "use_bias_correction_kl": False,
    # Rows come in the order of the native engine's batches.
    "shuffle_dataset": False,
    "remove_unused_columns": False,
    # A resumed run takes the prompts that an uninterrupted one would take.
    "ignore_data_skip": False,
    # One record per update; checkpoints when a step of the recipe is done.
    "logging_strategy": "steps",
    "logging_steps": 1,
    "logging_nan_inf_filter": False,
    "save_strategy": "no",
    # A run has its own trackers (`log`) and its own display.
    "report_to": "none",
    "disable_tqdm": True,
}
"""Arguments that a run needs to be so."""

_ELSEWHERE = {
    "output_dir": "the run's directory is where checkpoints go",
    "resume_from_checkpoint": "the run continues from its own newest checkpoint",
    "lr_scheduler_kwargs": "the section `train` has all of the schedule",
    "num_train_epochs": "train.steps says how long a run is",
    "fp16": "model.compute_dtype chooses the dtype",
    "reward_weights": "rewards have a key `weight`",
    "scale_rewards": "the section `advantage` makes advantages",
    "multi_objective_aggregation": "the section `advantage` makes advantages",
    "model_init_kwargs": "the section `model` says how the model is loaded",
    "chat_template_kwargs": "model.chat_template_kwargs has them",
    "disable_dropout": "adapter.dropout is 0",
    "generation_batch_size": "a step's completions are generated together",
    "steps_per_generation": "a step's completions are generated together",
    "ddp_backend": "torch chooses it for the device",
    "trust_remote_code": "no code of a model is run",
    "push_to_hub": "a run stays where it is; `pgrpo export` writes what can be uploaded",
    "sync_ref_model": "the reference of the KL penalty is the base model",
    "vllm_server_host": "engine.vllm.server_base_url has the address",
    "vllm_server_port": "engine.vllm.server_base_url has the address",
    # TRL prints them as they are, with whatever moves the cursor or hides text.
    **dict.fromkeys(
        ("log_completions", "log_completions_hub_repo", "log_unique_prompts", "num_completions_to_print"),
        "completions are in the run's history.sqlite",
    ),
}
_PREFIXES = {
    "hub_": "a run stays where it is",
    "save_": "train.save_every and train.keep_checkpoints say what is saved",
    "eval_": "`pgrpo eval` evaluates",
    "do_": "`pgrpo train` trains",
}

_SAMPLING = {
    **{entry.argument: entry.key for entry in TABLE if entry.key.startswith("rollout.")},
    "do_sample": "rollout.temperature",
    **dict.fromkeys(("max_length", "max_new_tokens", "max_tokens"), "rollout.max_completion_tokens"),
    **dict.fromkeys(("n", "num_return_sequences"), "rollout.num_generations"),
}
"""Keys of `engine.args.generation_kwargs`, of transformers or vLLM, and the recipe's that sets the same."""


def grpo_arguments(
    recipe: Recipe,
    *,
    output_dir: str,
    on_cpu: bool,
    completions_per_process: int,
    completions_at_once: int,
) -> GRPOConfig:
    """The arguments of a run. Raises RecipeError for what GRPOConfig refuses.

    `completions_per_process`: of a step; `completions_at_once` of them go through the model together.
    """
    engine = recipe.engine
    assert isinstance(engine, TrlEngine)
    values: dict[str, Any] = {**OURS, **mapped(recipe), **engine.args}
    values |= {
        "output_dir": output_dir,
        "use_cpu": on_cpu,
        "max_steps": recipe.train.steps * recipe.train.updates_per_rollout,
        "per_device_train_batch_size": completions_at_once,
        "gradient_accumulation_steps": completions_per_process // completions_at_once,
    }
    if engine.vllm is not None:
        values["use_vllm"] = True
        values |= {f"vllm_{key}": value for key, value in engine.vllm.model_dump().items()}
    try:
        # `accelerate launch` sets it to what its own configuration says.
        with patch_environment(ACCELERATE_MIXED_PRECISION="bf16" if values["bf16"] else "no"):
            return GRPOConfig(**values)
    except (ValueError, TypeError, ImportError) as error:
        raise RecipeError(
            f"TRL refuses the arguments of this run: {error}", remedy="engine.args has what you may change."
        ) from error


def mapped(recipe: Recipe) -> dict[str, Any]:
    """The arguments of the table. The recipe's compute dtype is no longer `auto`."""
    recipe = recipe.model_copy(update={"loss": recipe.resolved_loss})
    return {entry.argument: entry.convert(_at(recipe, entry.key)) for entry in TABLE}


def refuse_arguments(engine: TrlEngine, *, on_cpu: bool, allowed_hosts: Collection[str] = ()) -> None:
    """Raise RecipeError with all that is wrong with `engine.args` and `engine.vllm`; no model is needed."""
    problems = [problem for name, value in engine.args.items() for problem in _problems(name, value)]
    if engine.vllm is not None:
        problems += _vllm_problems(engine.vllm, on_cpu, allowed_hosts)
    if problems:
        raise RecipeError("; ".join(problems), remedy="docs/beyond-one-gpu.md lists what goes where.")


def _problems(name: str, value: Any) -> Iterator[str]:
    place, known = f"engine.args.{name}", _types()
    keys = {entry.argument: entry.key for entry in TABLE} | DERIVED
    reasons = _ELSEWHERE | {
        full: reason
        for prefix, reason in _PREFIXES.items()
        for full in known
        if full.startswith(prefix) and full not in keys
    }
    if name not in known:
        near = nearest(name, known)
        yield f"{place}: GRPOConfig has no such argument{f'; did you mean {near!r}?' if near else ''}"
    elif name in keys:
        yield f"{place}: {keys[name]} sets it"
    elif name in OURS:
        yield f"{place}: it is always {OURS[name]!r} in a run"
    elif name in reasons:
        yield f"{place}: {reasons[name]}"
    else:
        try:
            TypeAdapter(known[name], config=ConfigDict(arbitrary_types_allowed=True)).validate_python(
                value, strict=True
            )
        except ValidationError:
            yield f"{place}: found {value!r}; must be {_described(known[name])}"
            return
        if name == "generation_kwargs":
            yield from (f"{place}: {_SAMPLING[key]} sets {key}" for key in value or () if key in _SAMPLING)
        if name == "use_liger_kernel" and value and find_spec("liger_kernel") is None:
            yield f"{place}: the package liger_kernel is not installed (pip install liger-kernel)"


def _described(annotation: Any) -> str:
    members = typing.get_args(annotation) or (annotation,)
    return " or ".join("null" if member is type(None) else describe(member) for member in members)


def _vllm_problems(vllm: VllmSection, on_cpu: bool, allowed_hosts: Collection[str]) -> Iterator[str]:
    if on_cpu:
        yield "engine.vllm: vLLM needs a GPU, and this run computes on the CPU; remove it"
    elif find_spec("vllm") is None:
        yield "engine.vllm: the package vllm is not installed (pip install 'trl[vllm]')"
    host = (urlsplit(vllm.server_base_url or "").hostname or "localhost").lower()
    if host not in _LOCAL_HOSTS and host not in {allowed.lower() for allowed in allowed_hosts}:
        yield (
            f"engine.vllm.server_base_url: prompts and weights would go to {host}; "
            f"allow it with --allow-host {host}"
        )


@cache
def _types() -> Mapping[str, Any]:
    """The arguments of GRPOConfig and their types."""
    # Text would be JSON, whose keys are not looked at here.
    return typing.get_type_hints(GRPOConfig) | {"generation_kwargs": dict[str, Any] | None}


def _at(recipe: Recipe, key: str) -> Any:
    value: Any = recipe
    for name in key.split("."):
        value = getattr(value, name)
    return value
