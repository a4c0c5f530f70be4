"""Packages that only some rewards need."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from pgrpo_cli.errors import RecipeError


def import_extra(module: str, extra: str, label: str) -> Any:
    """The module, of a package that comes with `pgrpo-cli[extra]`. Raises RecipeError if it is missing."""
    try:
        return import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise RecipeError(
            f"reward {label!r} needs the package {package}, which cannot be imported: {error}",
            remedy=f"pip install 'pgrpo-cli[{extra}]'",
        ) from error
