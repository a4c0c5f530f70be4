"""Objects that installed packages bring, found by entry point.

They are code: without the user's leave nothing of the package is imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from .errors import RecipeError
from .names import nearest


def build_from_entry_point(
    group: str, name: str, options: Mapping[str, Any], *, where: str, allow_code: bool
) -> tuple[Any, str]:
    """Call the entry point `name` of `group` with the options: (what it returns, how messages call it).

    `where` names the place in the recipe. Raises RecipeError; without `allow_code` always, and then nothing
    of the package has been imported.
    """
    known = {entry.name: entry for entry in entry_points(group=group)}
    if name not in known:
        registered = ", ".join(sorted(known)) or "none"
        near = nearest(name, known)
        hint = f"; did you mean {near!r}?" if near else ""
        raise RecipeError(
            f"{where}: no installed package registers {name!r} under the entry point group {group!r}{hint}",
            remedy=f"Install the package that brings it (registered now: {registered}).",
        )
    named = f"plug-in {name!r} ({known[name].value})"
    if not allow_code:
        raise RecipeError(
            f"{where} runs {named} of the installed package {_package(known[name])}; "
            "code that a recipe names is not run by default",
            remedy="Look at what it does with the recipe's `options`; if you trust it, add --allow-code.",
        )
    try:
        return known[name].load()(**options), named
    except (Exception, SystemExit) as error:
        raise RecipeError(
            f"{where}: building {named} raised {type(error).__name__}: {str(error)[:500]}",
            remedy="Check `options` against the plug-in's documentation.",
        ) from error


def _package(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else "that brings it"
