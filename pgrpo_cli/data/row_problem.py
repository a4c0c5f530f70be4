"""What is wrong with a row, and the rules for text that sources and preference groups share."""

from __future__ import annotations

from typing import Any

from pgrpo_cli.names import composed

MAX_GROUP_LENGTH = 200
"""Characters of a preference group's name."""


class RowProblem(Exception):
    """Why a row is rejected: `reason` is the rule (few, counted), `detail` what was found."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class LeftOut(RowProblem):
    """Why a row with which nothing is wrong is not used: by a limit of the recipe or by the set itself."""


def preference_group_name(value: Any, what: str) -> str:
    """`value` as the name of a preference group: printable text, or a whole number. Raises RowProblem.

    `what` says where the value comes from.
    """
    if value is None:
        raise RowProblem("no preference group", f"{what} is null")
    # Ratings and cluster numbers are natural names; true and 1.5 are more likely a mistake.
    value = whole(value)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**MAX_GROUP_LENGTH:
        value = str(value)
    if not isinstance(value, str):
        raise RowProblem("preference group is no text", f"{what} is {shown(value)}")
    value = composed(storable(value.strip(), "preference group"))
    if not value:
        raise RowProblem("no preference group", f"{what} is blank")
    if not value.isprintable() or len(value) > MAX_GROUP_LENGTH:
        rule = f"a printable name of at most {MAX_GROUP_LENGTH} characters is needed"
        raise RowProblem("preference group is no name", f"{what} is {shown(value)}; {rule}")
    return value


def whole(value: Any) -> Any:
    """A float that is a whole number as that number: tables with gaps store 12 as 12.0."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def storable(text: str, what: str) -> str:
    """Text that UTF-8 can hold. Raises RowProblem."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RowProblem("not Unicode text", f"the {what} holds half a surrogate pair") from error
    return text


def shown(value: Any) -> str:
    """`value` for a message, cut short."""
    try:
        text = repr(value)
    except ValueError:
        # Python writes no number of more than some thousand digits.
        text = f"a huge {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "..."
