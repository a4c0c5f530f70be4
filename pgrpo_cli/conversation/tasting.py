"""A blind taste test: a question, two answers in drawn order, names hidden, and what the person picks.

Two kinds. Between two models every pair has an answer of each, so the share of picks says which of them is
better for this person. Among samples of one model, the pair that is shown is the one that tells most about
the person, and picks are data for the next run. Half of the samples are asked for with an instruction, unless
they are told apart by preference groups: a base model alone hardly ever gives a short answer, and then nobody
could say that they like those.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from threading import Event

from pgrpo_cli.data.conditioning.presets import Preset, group_presets
from pgrpo_cli.data.records import Message
from pgrpo_cli.errors import DataError
from pgrpo_cli.feedback.file import append, read_feedback
from pgrpo_cli.feedback.records import Pick, Placed, Undo, recordable
from pgrpo_cli.recipe.schema import Recipe
from pgrpo_cli.rewards.taste.asked import Asked
from pgrpo_cli.rewards.text import is_blank
from pgrpo_cli.seeding import recorded_seed
from pgrpo_cli.stats.intervals import Interval, share_interval
from pgrpo_cli.stats.result_types import Which

from .placing import NOBODY, Placing
from .questions import Question
from .speaker import Speaker

CANDIDATES = 4
"""Answers among which the pair that tells most is looked for."""
MOST_ALIKE = 10
"""Questions in a row without two answers to choose from, after which no more are asked."""
MARKS = ("1", "2", "=")
INSTRUCTIONS = (
    "Answer in a few words.",
    "Answer in one short sentence.",
    "Answer in detail.",
    "Answer in very simple words.",
    "Answer with a list.",
    "Answer formally.",
    "Answer cheerfully, with exclamation marks!",
    "Speak to me personally.",
    "Ask me something back.",
)
"""What may be added to a question. Each moves the answer along a feature that the taste reward looks at."""


@dataclass(frozen=True)
class Contestant:
    """Who answers: a model that is told that somebody asks. `name` is hidden until the end."""

    name: str
    speaker: Speaker
    which: Which
    preset: Preset

    @property
    def step(self) -> int:
        """Steps of training behind it."""
        return self.speaker.step if self.which == "tuned" else 0

    def asked(self, question: Question, instruction: str | None = None) -> list[Message]:
        """What the model sees: the instruction, if any, follows the question."""
        # Not in the system message, which some templates refuse, and which small models obey less.
        text = question.text if instruction is None else f"{question.text} {instruction}"
        return [*_before(self.preset.messages, question), {"role": "user", "content": text}]


@dataclass(frozen=True)
class Shown:
    """A pair as it is shown: `answers` in that order, whose they are, and how they were drawn."""

    number: int
    question: Question
    answers: tuple[str, str]
    contestants: tuple[Contestant, Contestant]
    seeds: tuple[int, int]
    instructions: tuple[str | None, str | None] = (None, None)

    @property
    def alike(self) -> bool:
        """Whether both answers are the same, so that there is nothing to pick from."""
        return self.answers[0].strip() == self.answers[1].strip()


@dataclass(frozen=True)
class TasteResult:
    """What the picks say so far. `wins` are those of the second contestant over the first.

    `win_rate` counts a tie as a half; its interval is that of `share_interval`. NaN without picks, and for
    samples of one model. `placement`: probability of each preference group, and of nobody yet. `trained`: how
    many questions the models were trained on.
    """

    names: tuple[str, str] | None
    wins: int
    losses: int
    ties: int
    skipped: int
    win_rate: Interval
    placement: Mapping[str, float]
    trained: int = 0

    def sentences(self) -> list[str]:
        """What a comparison of two models has found, with their names; empty for samples of one."""
        if self.names is None:
            return []
        first, second = self.names
        found = [f"{second} against {first}: {self.wins} won, {self.losses} lost, {self.ties} the same"]
        rate = self.win_rate
        if not math.isnan(rate.mean):
            says = (
                "is better for you (the interval is above one half)" if rate.low > 0.5
                else "is worse for you (the interval is below one half)" if rate.high < 0.5
                else "may be no better or worse: the interval includes one half"
            )  # fmt: skip
            found.append(f"win rate {rate.mean:.2f} [{rate.low:.2f}, {rate.high:.2f}]: {second} {says}")
        if self.trained:
            asked = self.wins + self.losses + self.ties
            found.append(
                f"{self.trained} of {asked} questions were training prompts, or of the picks that the reward "
                "was learnt from: what is won there says less of other questions"
            )
        return found


@dataclass
class Tasting:
    """The pairs of one person, one after the other.

    When `pick` returns, the pick is on the disk, and so is where the picks place the person. `versus`: the
    two that are compared; None: samples of `candidates`. `before`: what stands before the question in the
    record of a pick. `trained`: texts of questions that the two were trained on. `seed` fixes questions,
    answers and their order.
    """

    questions: Iterator[Question]
    path: Path
    user: str
    run: str
    candidates: Sequence[Contestant]
    versus: tuple[Contestant, Contestant] | None = None
    preference_group: str | None = None
    before: tuple[Message, ...] = ()
    placing: Placing | None = None
    seed: int = 0
    trained: Collection[str] = ()
    on_note: Callable[[str], None] = lambda text: None
    asked: Asked = field(default_factory=Asked)
    confidence: float = 0.95
    skipped: int = 0
    no_choice: str | None = None
    """Why there are no more pairs although there may be questions, as a sentence."""
    _picked: list[tuple[Shown, Pick]] = field(default_factory=list)
    _number: int = 0

    def next_pair(self, stop: Event | None = None) -> Shown | None:
        """The next pair; None where there are no questions left, where `MOST_ALIKE` in a row gave none, and
        soon after `stop` is set.

        Two answers that are the same have nothing to pick from: between two models they are a tie, which is
        recorded; a question that has no other samples, or none with a word, is passed over.
        """
        stop, self.no_choice = stop or Event(), None
        alike = 0
        while alike < MOST_ALIKE:
            question = next(self.questions, None)
            if question is None:
                self.no_choice = "There are no questions left."
                return None
            self._number += 1
            try:
                pair = self._between(question, stop) if self.versus else self._among(question, stop)
            except DataError as error:
                # One that is too long for the model ends no test.
                self.on_note(f"note: question {question.prompt_id!r} is passed over: {error.message}")
                continue
            alike += 1
            if stop.is_set():
                # The answers may be cut short.
                return None
            if pair is not None and self.versus and pair.alike:
                self.pick(pair, "=")
            elif pair is not None:
                return pair
        answers = "The two answers were the same" if self.versus else "There were no two different answers"
        self.no_choice = f"{answers} for {MOST_ALIKE} questions in a row, so no more are asked."
        return None

    def pick(self, pair: Shown, mark: str) -> None:
        """Record what was picked: `1`, `2` or `=`; `s` records nothing. Raises PgrpoError."""
        if mark == "s":
            self.skipped += 1
            return
        with recordable():
            record = Pick(
                user=self.user,
                preference_group=self.preference_group,
                prompt_id=pair.question.prompt_id,
                messages=(
                    *_before(self.before, pair.question),
                    {"role": "user", "content": pair.question.text},
                ),
                answers=pair.answers,
                pick=mark,  # type: ignore[arg-type]
                models=(pair.contestants[0].name, pair.contestants[1].name),
                run=self.run,
                steps=(pair.contestants[0].step, pair.contestants[1].step),
                seeds=pair.seeds,
                instructions=pair.instructions,
            )
        append(self.path, record)
        self._picked.append((pair, record))
        self.asked.add(pair.question.text, pair.answers)
        if self.placing is not None:
            self.placing.add(pair.question, pair.answers, mark)
            self._record_place(self.placing)

    @property
    def picked(self) -> int:
        """How many picks of this session count."""
        return len(self._picked)

    def undo(self) -> Shown | None:
        """Take back the last pick that the user made, and return its pair, to be shown again; None where
        there is none. Ties of equal answers, recorded since and never shown, stay.
        """
        for back in range(1, len(self._picked) + 1):
            pair, record = self._picked[-back]
            if not pair.alike:
                append(self.path, Undo(undone=record.id))
                self._picked.pop(-back)
                self.asked.take_back(back)
                if self.placing is not None:
                    self.placing.take_back(back)
                    self._record_place(self.placing)
                return pair
        return None

    def _record_place(self, placing: Placing) -> None:
        # After each pick and not at the end, which a kill may forestall.
        found = dict(placing.probabilities())
        nobody = found.pop(NOBODY)
        append(self.path, Placed(user=self.user, probabilities=found, nobody=nobody))

    def result(self) -> TasteResult:
        """What the picks of this session say."""
        marks = [(pair.contestants, pick.pick) for pair, pick in self._picked]
        ties = sum(mark == "=" for _, mark in marks)
        wins = losses = 0
        if self.versus is not None:
            tuned = self.versus[1]
            won = [contestants[int(mark) - 1] is tuned for contestants, mark in marks if mark != "="]
            wins, losses = sum(won), len(won) - sum(won)
        judged = wins + losses + ties if self.versus else 0
        share = (wins + ties / 2) / judged if judged else 0.0
        return TasteResult(
            names=None if self.versus is None else (self.versus[0].name, self.versus[1].name),
            wins=wins,
            losses=losses,
            ties=ties,
            skipped=self.skipped,
            win_rate=share_interval(share, judged, self.confidence),
            placement={} if self.placing is None else self.placing.probabilities(),
            trained=sum(pair.question.text.strip() in self.trained for pair, _ in self._picked),
        )

    def _between(self, question: Question, stop: Event) -> Shown:
        """An answer of each of the two, drawn with the same seed, in drawn order."""
        assert self.versus is not None
        seed = self._seed("answer")
        order = (0, 1) if self._seed("order") % 2 else (1, 0)
        contestants = (self.versus[order[0]], self.versus[order[1]])
        first, second = (
            by.speaker.ask(by.asked(question), which=by.which, seed=seed, stop=stop).read()
            for by in contestants
        )
        return Shown(self._number, question, (first, second), contestants, (seed, seed))

    def _among(self, question: Question, stop: Event) -> Shown | None:
        """Of a few answers, for several groups or with several instructions, the pair that tells most."""
        rng = random.Random(self._seed("candidates"))
        drawn: list[tuple[Contestant, str | None]]
        if len(self.candidates) == 1:
            # Half of them without an instruction, since training begins from such answers.
            added = [None, None, *rng.sample(INSTRUCTIONS, CANDIDATES - 2)]
            drawn = [(self.candidates[0], instruction) for instruction in added]
        else:
            some = rng.sample(list(self.candidates), min(CANDIDATES, len(self.candidates)))
            drawn = [(by, None) for by in some]
        seeds = [self._seed("answer", index) for index in range(len(drawn))]
        # All candidates are one model, told of several groups: one batch.
        texts = drawn[0][0].speaker.answers(
            [by.asked(question, instruction) for by, instruction in drawn],
            which=drawn[0][0].which,
            seeds=seeds,
            stop=stop,
        )
        spoken = [i for i, text in enumerate(texts) if not is_blank(text)]
        places = [(i, j) for i, j in combinations(spoken, 2) if texts[i].strip() != texts[j].strip()]
        if not places:
            return None
        pairs = [(texts[i], texts[j]) for i, j in places]
        if self.placing is not None:
            i, j = places[self.placing.most_telling(question, pairs)]
        else:
            i, j = places[self.asked.most_telling(question.text, pairs)]
        if rng.random() < 0.5:
            i, j = j, i
        return Shown(
            self._number,
            question,
            (texts[i], texts[j]),
            (drawn[i][0], drawn[j][0]),
            (seeds[i], seeds[j]),
            (drawn[i][1], drawn[j][1]),
        )

    def _seed(self, *what: str | int) -> int:
        return recorded_seed(self.seed, "taste", self.user, self._number, *what)


def candidates_of(
    run_dir: Path, recipe: Recipe, speaker: Speaker, groups: Sequence[str], preset: Preset
) -> list[Contestant]:
    """The model as it answers each of several preference groups, or as it answers with the preset."""
    which: Which = "tuned" if speaker.step else "base"
    if len(groups) < 2:
        return [Contestant(which, speaker, which, preset)]
    return [
        Contestant(f"{which}@{group}"[:200], speaker, which, told)
        for group, told in zip(groups, group_presets(run_dir, recipe, groups), strict=True)
    ]


def earlier_picks(path: Path, user: str) -> tuple[list[Pick], tuple[str, ...]]:
    """The picks of a user that a file holds, and notes about its broken lines. Raises DataError."""
    if not path.exists():
        return [], ()
    found = read_feedback(path)
    return [pick for pick in found.picks if pick.user == user], found.notes


def _before(preset: tuple[Message, ...], question: Question) -> tuple[Message, ...]:
    """What stands before a question: the turns of the preset are another prompt's if it has its own."""
    if question.turns is None:
        return preset
    return (*preset[: bool(preset) and preset[0]["role"] == "system"], *question.turns)
