"""paths.json: how a run computes on its machine, measured at its start and kept when it is resumed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from pgrpo_cli.data.strict_json import read_json
from pgrpo_cli.errors import CheckpointError
from pgrpo_cli.recipe.model import ModelSection
from pgrpo_cli.recipe.resolved import adopted, with_value
from pgrpo_cli.recipe.schema import Recipe

from .files import explained, write_json
from .run import RunDirectory

_COMPUTE_DTYPES = get_args(ModelSection.model_fields["compute_dtype"].annotation)
_ROLLOUT_DTYPES = (None, *(name for name in _COMPUTE_DTYPES if name != "auto"))
_SWITCHES = ("shared_prefix", "packed", "graphs")
_NUMBERS = ("copy_from_rows", "tokens_per_batch", "tokens_per_micro_batch")


def write_paths(run: RunDirectory, measured: Mapping[str, Any], *, device: str, compute_dtype: str) -> None:
    """Record what was measured on a device of that type, and what the recipe's compute dtype was taken as."""
    with explained(str(run.paths_path)):
        write_json(run.paths_path, {"device": device, "compute_dtype": compute_dtype, **measured})


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
        if name not in _COMPUTE_DTYPES:
            raise TypeError(f"compute_dtype {name!r}")
    except FileNotFoundError:
        return recipe
    except (ValueError, TypeError, AttributeError) as error:
        raise _damaged(run, error) from error
    return with_value(recipe, "model", "compute_dtype", name)


def read_paths(run: RunDirectory, device: str) -> dict[str, Any] | None:
    """What was measured; None where nothing was, or on another type of device. Raises CheckpointError."""
    try:
        record: dict[str, Any] = read_json(run.paths_path)
        # A run on TRL has measured nothing.
        if record["device"] != device or record.keys() == {"device", "compute_dtype"}:
            return None
        dtype, reason = record["rollout_dtype"], record["reason"]
        if dtype not in _ROLLOUT_DTYPES or not isinstance(reason, str | None):
            raise TypeError(f"rollout_dtype {dtype!r}, reason {reason!r}")
        # Earlier versions have measured none of these.
        numbers = {name: record[name] for name in _NUMBERS if name in record}
        for name, number in numbers.items():
            if number is not None and (type(number) is not int or number < 1):
                raise TypeError(f"{name} {number!r}")
        switches = {name: bool(record[name]) for name in _SWITCHES}
        # Earlier versions padded on the left in every model.
        switches["left_padding"] = bool(record.get("left_padding", True))
        return {**switches, **numbers, "reason": reason, "rollout_dtype": dtype}
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(run, error) from error


def _damaged(run: RunDirectory, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{run.paths_path} is damaged: {error!r}",
        remedy="Delete it: it is measured again, and the run continues, but not bit for bit.",
    )
