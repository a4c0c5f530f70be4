"""What every section of a recipe is made of: bounded numbers, paths, and rules between its keys."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationInfo, field_validator, model_validator

from pgrpo_cli.errors import PathError
from pgrpo_cli.names import composed
from pgrpo_cli.paths import expanded, refuse_characters, shown

from .messages import KeyPath, show
from .templates import Expression, Template, TemplateProblem

MOST_WHOLE = 2**31 - 1
MOST, LEAST = 1e18, 1e-15
"""Bounds on the size of numbers, 0 apart: what is squared, summed or divided by stays a number."""

PATHS_FROM = "paths_from"
"""Key of the validation context: the folder where relative paths start. Where it is given, a path of a user
or variable that this machine does not know is refused, too. It is optional: runs are read elsewhere, too."""


@dataclass(frozen=True)
class Violation:
    """A broken rule: the value found at `path`, below the section that has the rule, and a remedy."""

    path: KeyPath
    found: Any
    rule: str

    def __str__(self) -> str:
        return f"found {show(self.found)}; {self.rule}"


class BrokenRules(ValueError):
    """All rules between its keys that a section breaks."""

    def __init__(self, violations: Iterable[Violation]) -> None:
        self.violations = tuple(violations)
        super().__init__("; ".join(map(str, self.violations)))


class Section(BaseModel):
    """Frozen, strict about keys, finite numbers of a common size only.

    Units stand in the field descriptions; derived values are properties.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _of_common_size(cls, value: Any) -> Any:
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int) and abs(number) > MOST_WHOLE:
                raise ValueError(
                    f"must be {MOST_WHOLE} or less" if number > 0 else f"must be -{MOST_WHOLE} or more"
                )
            if isinstance(number, float) and number and not LEAST <= abs(number) <= MOST:
                raise ValueError(f"must be 0 or of a size between {LEAST:g} and {MOST:g}")
        return value

    def violations(self) -> Iterable[Violation]:
        """The rules between its keys that it breaks. They are asked once every key is valid by itself."""
        return ()

    @model_validator(mode="after")
    def _keeps_its_rules(self) -> Self:
        if found := (*self.violations(), *_not_finite(dict(self))):
            raise BrokenRules(found)
        return self


def _not_finite(values: Any, path: KeyPath = ()) -> Iterator[Violation]:
    """The numbers in free mappings that JSON does not have, as which a run keeps them."""
    if isinstance(values, (dict, list)):
        for key, value in values.items() if isinstance(values, dict) else enumerate(values):
            yield from _not_finite(value, (*path, key))
    elif isinstance(values, float) and not math.isfinite(values):
        yield Violation(path, values, "must be a finite number")


def rating_scale(column: str | None, low: float, high: float) -> Iterator[Violation]:
    """The broken rules of the keys `rating_column`, `rating_min` and `rating_max`."""
    if low >= high:
        yield Violation(("rating_min",), low, f"must be less than rating_max ({high:.12g}); swap them")
    elif column is None and (low, high) != (0, 1):
        rule = "rating_min and rating_max are those of a column: name it, or leave them out"
        yield Violation(("rating_column",), None, rule)


def _possible(text: str, info: ValidationInfo) -> str:
    """The same text. Raises ValueError where it can be no path."""
    try:
        refuse_characters(text, "")
        if info.context and PATHS_FROM in info.context:
            expanded(text, "", info.context[PATHS_FROM])
    except PathError as error:
        reason = error.message.removeprefix(": ").removeprefix(f"{shown(text)}: ")
        remedy = (error.remedy or "").rstrip(".")
        raise ValueError(f"{reason}; {remedy[:1].lower()}{remedy[1:]}") from error
    return text


IS_PATH = AfterValidator(_possible)
PathText = Annotated[str, IS_PATH]
"""A path or pattern, relative to the recipe's folder."""


def _usable_template(text: str) -> str:
    """The same text. Raises ValueError where it is no template."""
    try:
        Template(text)
    except TemplateProblem as problem:
        raise ValueError(f"not a template that can be used: {problem}") from problem
    return text


def _usable_expression(text: str) -> str:
    try:
        Expression(text)
    except TemplateProblem as problem:
        raise ValueError(f"not an expression that can be used: {problem}") from problem
    return text


TemplateText = Annotated[str, AfterValidator(_usable_template)]
"""A Jinja template."""
ExpressionText = Annotated[str, AfterValidator(_usable_expression)]
"""A Jinja expression."""
GroupName = Annotated[str, AfterValidator(composed)]
"""The name of a preference group or a user, spelt as the data are."""
