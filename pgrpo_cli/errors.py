"""The errors that a user can cause or repair, each with the exit code that the command line returns.

Rules for raising one: say what was found and where, the rule that it breaks, and what to do about it.
Anything that is not a `PgrpoError` is a library's or a defect of this program; its trace goes to a file.
A new branch is added only when callers must tell it apart from the others.
"""

from __future__ import annotations


class PgrpoError(Exception):
    """Base of all errors with a message meant for the user. `remedy` is printed on a line of its own."""

    exit_code = 1

    def __init__(self, message: str, *, remedy: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}\n  {self.remedy}" if self.remedy else self.message


class RunWarning(RuntimeWarning):
    """Something that the user of a run should know, from code that has no other way to say it."""


class RecipeError(PgrpoError, ValueError):
    """The recipe, or an override of it, breaks a rule."""

    exit_code = 2


class PathError(PgrpoError):
    """A path that an option or the recipe names cannot be used, whatever it is for."""

    # Not a ValueError: the command line's parser would take it for one of its own, and drop the remedy.
    exit_code = 2


class DataError(PgrpoError, ValueError):
    """The preference data cannot be used as they are."""

    exit_code = 2


class ModelError(PgrpoError, ValueError):
    """The model named in the recipe cannot be loaded or does not fit the task."""

    exit_code = 2


class RunError(PgrpoError, RuntimeError):
    """A run directory is missing, is in use, or belongs to something else."""

    exit_code = 2


class CheckpointError(PgrpoError, RuntimeError):
    """No usable checkpoint, or one that cannot be written."""


class RewardError(PgrpoError, RuntimeError):
    """A reward function raised, or returned something that is no number."""


class TrainingError(PgrpoError, RuntimeError):
    """Training cannot continue."""


class EvalError(PgrpoError, RuntimeError):
    """An evaluation or comparison cannot be made."""


class EvalFileError(EvalError):
    """An evaluation that a run keeps is missing, damaged, or of another version."""

    exit_code = 2


class ExportError(PgrpoError, RuntimeError):
    """A model cannot be exported, or what was exported does not answer as the run does."""

    def __init__(self, message: str, *, remedy: str | None = None, exit_code: int = 1) -> None:
        super().__init__(message, remedy=remedy)
        self.exit_code = exit_code


class IncomparableError(EvalError):
    """Two evaluations differ in what they measured, so that a difference of their rewards says nothing."""

    exit_code = 3


class Interrupted(PgrpoError):
    """The user, or who runs the machine, stopped a run; everything up to the last finished step is saved."""

    def __init__(self, message: str, *, remedy: str | None = None, exit_code: int = 130) -> None:
        super().__init__(message, remedy=remedy)
        self.exit_code = exit_code
