"""paths.json: how a run computes on its machine, measured at its start and kept when it goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

from pgrpo_cli.data.strict_json import read_json
from pgrpo_cli.errors import CheckpointError
from pgrpo_cli.recipe.model import ModelSection
from pgrpo_cli.recipe.resolved import adopted, with_value
from pgrpo_cli.recipe.schema import Recipe

from .files import explained, write_json
from .run import RunDirectory

if TYPE_CHECKING:
    import torch

    from pgrpo_cli.model.policy import Paths

_NUMBERS = ("copy_from_rows", "tokens_per_batch", "tokens_per_micro_batch")


def write_paths(run: RunDirectory, paths: Paths, device: torch.device, compute_dtype: torch.dtype) -> None:
    """Record what was measured on `device`, and the type that the recipe's compute dtype was taken as."""
    dtype = paths.rollout_dtype
    record = {
        "device": device.type,
        "compute_dtype": str(compute_dtype).removeprefix("torch."),
        "shared_prefix": paths.shared_prefix,
        "packed": paths.packed,
        "graphs": paths.graphs,
        "reason": paths.reason,
        "copy_from_rows": paths.copy_from_rows,
        "tokens_per_batch": paths.tokens_per_batch,
        "tokens_per_micro_batch": paths.tokens_per_micro_batch,
        "rollout_dtype": None if dtype is None else str(dtype).removeprefix("torch."),
    }
    with explained(str(run.paths_path)):
        write_json(run.paths_path, record)


def as_begun(run: RunDirectory, recipe: Recipe) -> Recipe:
    """The recipe with the compute dtype that the run began with, where it leaves that to the device. What
    else it leaves to the device is as the run's own recipe has it.

    Raises RunError, RecipeError or CheckpointError where the run's files are damaged.
    """
    if not run.started:
        return recipe
    recipe = adopted(run.recipe(), recipe)
    if recipe.model.compute_dtype != "auto":
        return recipe
    try:
        name = read_json(run.paths_path).get("compute_dtype", "auto")
        if name not in get_args(ModelSection.model_fields["compute_dtype"].annotation):
            raise TypeError(f"compute_dtype {name!r}")
    except FileNotFoundError:
        return recipe
    except (ValueError, TypeError, AttributeError) as error:
        raise _damaged(run, error) from error
    return with_value(recipe, "model", "compute_dtype", name)


def read_paths(run: RunDirectory, device: torch.device) -> Paths | None:
    """What was measured; None where nothing was, or on another kind of device. Raises CheckpointError."""
    import torch

    from pgrpo_cli.model.policy import Paths

    try:
        record: dict[str, Any] = read_json(run.paths_path)
        if record["device"] != device.type:
            return None
        name, reason = record["rollout_dtype"], record["reason"]
        dtype = None if name is None else getattr(torch, name)
        # Earlier versions have measured none of these.
        numbers = {name: record.get(name, getattr(Paths, name)) for name in _NUMBERS}
        if not isinstance(dtype, torch.dtype | None) or not isinstance(reason, str | None):
            raise TypeError(f"rollout_dtype {name!r}, reason {reason!r}")
        for key, number in numbers.items():
            if number is not None and (type(number) is not int or number < 1):
                raise TypeError(f"{key} {number!r}")
        return Paths(
            shared_prefix=bool(record["shared_prefix"]),
            packed=bool(record["packed"]),
            graphs=bool(record["graphs"]),
            reason=reason,
            rollout_dtype=dtype,
            **numbers,
        )
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(run, error) from error


def _damaged(run: RunDirectory, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{run.paths_path} is damaged: {error!r}",
        remedy="Delete it: it is measured again, and the run goes on, but not bit for bit.",
    )
