"""What a judge failed on: counted by reason, with the words of the last one, and when it stops the run."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from pgrpo_cli.errors import RewardError

from .judge_access import AnyJudge
from .judge_answer import Unusable
from .judge_client import RequestFailed

_SHOWN = 300
"""Characters of an answer that are shown."""
_REASONS_SHOWN, _MOST_REASONS = 3, 50
_REMEDY = "Put the judge or its section of the recipe right and run the same command again. Answers are kept."


@dataclass
class _Reason:
    count: int = 0
    words: str = ""


class Failures:
    """How often the judge failed, and why. Methods raise RewardError where the run should stop."""

    def __init__(self, section: AnyJudge) -> None:
        self._section = section
        self._latest: deque[bool] = deque(maxlen=section.failure_window)
        self._reasons: dict[str, _Reason] = {}
        self.answered = self.useful = False
        """Whether the judge has said anything at all, and anything that can be used."""

    def none(self) -> None:
        """A question was answered."""
        self._latest.append(False)
        self.useful = True

    def of_answer(self, failure: Unusable) -> None:
        """The judge answered twice, and not what was asked."""
        answer = " ".join(failure.answer.split())
        quoted = repr(answer if len(answer) <= _SHOWN else f"{answer[:_SHOWN]}...")
        self._count(f"its answer cannot be used: {failure}", f"it said {quoted}" if answer else "")

    def of_request(self, failure: RequestFailed) -> None:
        """A request failed for good. One that nobody ever answered, or ever will, stops the run at once."""
        section = self._section
        if failure.hopeless:
            key = f", and the key in {section.api_key_env}" if section.api_key_env else ""
            raise RewardError(
                f"{self._who} refuses requests: {failure}",
                remedy=f"Check base_url and model{key}. Answers so far are kept: the same command goes on.",
            )
        if failure.passing and not self.answered:
            raise RewardError(
                f"{self._who} does not answer, after {section.retries + 1} attempts: {failure}",
                remedy="Start it, or correct base_url, and run the same command again.",
            )
        self._count(failure.kind, failure.said)

    def refuse_silence(self) -> None:
        """Raises RewardError where questions failed and none, now or before, had an answer of use."""
        if self._reasons and not self.useful:
            count = sum(reason.count for reason in self._reasons.values())
            raise RewardError(
                f"{self._who} gave no answer that can be used to any of {count} questions: {self._told()}",
                remedy=_REMEDY,
            )

    def sentences(self) -> list[str]:
        """How many questions failed, by reason; nothing where none did."""
        count = sum(reason.count for reason in self._reasons.values())
        many = "1 question has" if count == 1 else f"{count:,} questions have"
        return [f"{self._section.label}: {many} no answer that can be used: {self._told()}"] if count else []

    @property
    def _who(self) -> str:
        return f"judge {self._section.label!r} at {self._section.base_url}"

    def _told(self) -> str:
        """The most frequent reasons, each with the words of its last failure."""
        reasons = sorted(self._reasons.items(), key=lambda item: -item[1].count)
        told = [
            f"{reason.count:,} x {kind}" + (f": {reason.words}" if reason.words else "")
            for kind, reason in reasons[:_REASONS_SHOWN]
        ]
        rest = sum(reason.count for _, reason in reasons[_REASONS_SHOWN:])
        return "; ".join([*told, *([f"{rest:,} x something else"] if rest else [])])

    def _count(self, kind: str, words: str) -> None:
        self._latest.append(True)
        full = len(self._reasons) >= _MOST_REASONS and kind not in self._reasons
        reason = self._reasons.setdefault("other reasons" if full else kind, _Reason())
        reason.count, reason.words = reason.count + 1, words
        section, failed = self._section, sum(self._latest)
        if failed > section.max_failure_share * section.failure_window:
            raise RewardError(
                f"{self._who} failed on {failed} of the last "
                f"{len(self._latest)} questions (max_failure_share is {section.max_failure_share:g} of "
                f"{section.failure_window}), the last time: {kind}" + (f": {words}" if words else ""),
                remedy=_REMEDY,
            )
