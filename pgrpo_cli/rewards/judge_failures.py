"""When a judge that fails stops the run."""

from __future__ import annotations

from collections import deque

from pgrpo_cli.errors import RewardError

from .judge_access import AnyJudge
from .judge_answer import Unusable
from .judge_client import RequestFailed


class Failures:
    """How often the judge failed of late. Every method raises RewardError where the run should stop."""

    def __init__(self, section: AnyJudge) -> None:
        self._section = section
        self._latest: deque[bool] = deque(maxlen=section.failure_window)
        self.answered = False
        """Whether the judge has said anything at all."""

    def none(self) -> None:
        """A question was answered."""
        self._latest.append(False)

    def of_answer(self, failure: Unusable) -> None:
        """The judge answered twice, and not what was asked."""
        self._count(f"its answer cannot be used: {failure}")

    def of_request(self, failure: RequestFailed) -> None:
        """A request failed for good. One that nobody ever answered, or ever will, stops the run at once."""
        section = self._section
        where = f"judge {section.label!r} at {section.base_url}"
        if failure.hopeless:
            key = f", and the key in {section.api_key_env}" if section.api_key_env else ""
            raise RewardError(
                f"{where} refuses requests: {failure}",
                remedy=f"Check base_url and model{key}. Answers so far are kept: the same command goes on.",
            )
        if failure.passing and not self.answered:
            raise RewardError(
                f"{where} does not answer, after {section.retries + 1} attempts: {failure}",
                remedy="Start it, or correct base_url, and run the same command again.",
            )
        self._count(str(failure))

    def _count(self, what: str) -> None:
        self._latest.append(True)
        section, failed = self._section, sum(self._latest)
        if failed > section.max_failure_share * section.failure_window:
            raise RewardError(
                f"judge {section.label!r} at {section.base_url} failed on {failed} of the last "
                f"{len(self._latest)} questions (max_failure_share is {section.max_failure_share:g} of "
                f"{section.failure_window}), the last time: {what}",
                remedy="Put the judge right and run the same command again: answers so far are kept.",
            )
