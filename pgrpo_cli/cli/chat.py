"""`chat`: talk to the model of a run as one of its preference groups, and rate what it says."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import typer

from pgrpo_cli.errors import PgrpoError
from pgrpo_cli.paths import path_of

from .callbacks import Terminal
from .common import (
    AllowCodeOption,
    AllowHostOption,
    DeviceOption,
    GroupOption,
    JsonOption,
    QuietOption,
    RunArgument,
    SeedOption,
    StepOption,
    option,
    text_option,
)
from .failures import show_error
from .interrupts import StopRequest, forwarded_signals
from .terminal import ask, emit, note, show_table, stream

if TYPE_CHECKING:
    from pgrpo_cli.conversation.conversation import Conversation
    from pgrpo_cli.conversation.speaker import Reply
    from pgrpo_cli.verbs.chat import AnswerRewards


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command()(chat)


def chat(
    run: RunArgument,
    group: GroupOption = None,
    user: Annotated[
        str | None,
        option(
            "--user", "ID", "Answer as for this user of the data, or of `pgrpo taste`; ratings are theirs."
        ),
    ] = None,
    profile: Annotated[
        str | None,
        text_option("--profile", "TEXT", "Describe who asks, in words."),
    ] = None,
    base: Annotated[bool, typer.Option("--base", help="Let the base model answer.")] = False,
    step: StepOption = None,
    once: Annotated[
        str | None,
        text_option("--once", "TEXT", "Answer one question on standard output."),
    ] = None,
    seed: SeedOption = 0,
    max_tokens: Annotated[
        int | None,
        option("--max-tokens", "N", "Longest answer. Default: as in training.", min=1),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(
            "--temperature",
            min=0,
            max=10,
            help="0 takes the likeliest words. Default: as in evaluations, at most 0.6.",
            show_default=False,
        ),
    ] = None,
    allow_code: AllowCodeOption = False,
    allow_host: AllowHostOption = None,
    device: DeviceOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Talk to the model of a run as one of its preference groups; rate its answers, for the next run."""
    if as_json and once is None:
        raise typer.BadParameter("--json: found no --once; JSON is printed for one question")
    from pgrpo_cli.verbs.chat import AnswerRewards, chat

    conversation = chat(
        run,
        group=group,
        user=user,
        profile=profile,
        base=base,
        step=step,
        seed=seed,
        max_tokens=max_tokens,
        temperature=temperature,
        device=device,
        callbacks=Terminal(quiet=quiet or once is not None),
    )
    if once is not None:
        _answer_once(conversation, once, as_json=as_json)
        return
    rewards = AnswerRewards(conversation, allow_code, allow_host or ())
    session = _Session(conversation, rewards, quiet=quiet)
    session.run()
    if session.failed and not session.is_typed:
        # A script reads the code, and no message.
        raise typer.Exit(1)


def _answer_once(conversation: Conversation, question: str, *, as_json: bool) -> None:
    reply = conversation.ask(question)
    answer = reply.read()
    if not as_json:
        emit(answer)
        return
    found = {
        "answer": answer,
        "preference_group": conversation.persona.preset.preference_group,
        "model": reply.which,
        "prompt": reply.prompt,
    }
    emit(json.dumps(found))


@dataclass
class _Session:
    """Reads lines until there are no more: questions, and commands that begin with a slash."""

    conversation: Conversation
    rewards: AnswerRewards
    quiet: bool = False
    beside: bool = False
    """Whether the base model answers each question, too."""
    failed: bool = field(default=False, init=False)
    """Whether a line could not be answered or obeyed."""
    _ends: bool = field(default=False, init=False)

    @property
    def is_typed(self) -> bool:
        """Whether the lines come from a terminal, and not through a pipe."""
        return sys.stdin.isatty()

    def run(self) -> None:
        self._show_persona()
        self._note("/help lists the commands, /quit ends.")
        for line in self._lines():
            try:
                self._take(line)
            except PgrpoError as error:
                show_error(error)
                self.failed = True
            if self._ends:
                return

    def _take(self, line: str) -> None:
        if not line.strip():
            return
        if not line.startswith("/"):
            self._answer(line)
            return
        name, _, rest = line[1:].partition(" ")
        if name not in _COMMANDS:
            raise PgrpoError(
                f"there is no command /{name}", remedy="/help lists them; a question has no slash."
            )
        _COMMANDS[name](self, rest.strip())

    def _answer(self, question: str) -> None:
        conversation = self.conversation
        if self.beside and conversation.which == "tuned":
            self._shown(conversation.ask(question, "base"), "base")
        reply = conversation.ask(question)
        self._shown(reply, reply.which if self.beside else None)
        if reply.finished or reply.text:
            conversation.keep(question, reply)

    def _shown(self, reply: Reply, label: str | None) -> None:
        """Show the pieces as they come. Ctrl-C ends this answer, not the conversation."""
        stop = StopRequest()

        def ended(signum: int) -> None:
            stop.signum = signum

        if label is not None:
            stream(f"{label}: ")
        with forwarded_signals(ended), closing(reply.__iter__()) as pieces:
            for piece in pieces:
                stream(piece)
                if stop:
                    break
        stream("\n")
        if not reply.finished and not stop:
            self._note(f"(cut after {self.conversation.max_tokens or self.conversation.speaker.max_tokens} "
                       "tokens; --max-tokens allows more)")  # fmt: skip

    def _lines(self) -> Iterator[str]:
        """What is typed, or comes through a pipe."""
        if not self.is_typed:
            for line in sys.stdin:
                yield line.rstrip("\n")
            return
        with _line_editing():
            while True:
                try:
                    yield ask(f"{self.conversation.persona.label}> ")
                except EOFError:
                    stream("\n")
                    return

    def _show_persona(self) -> None:
        preset = self.conversation.persona.preset
        if not preset.messages:
            self._note("Nothing before the question tells the model who asks.")
            return
        self._note(f"The model is told who asks by: {preset.origin}")
        for message in preset.messages:
            self._note(f"  {message['role']}: {message['content']}")

    def _note(self, text: str) -> None:
        if not self.quiet:
            note(text)

    # Commands. The docstring of each is its line in /help.

    def _as(self, name: str) -> None:
        """GROUP: answer as for another preference group; a new conversation begins"""
        if not name:
            emit("\n".join(self.conversation.preference_groups))
            return
        self.conversation.answer_as(group=name)
        self._show_persona()

    def _user(self, name: str) -> None:
        """ID: answer as for this user"""
        self.conversation.answer_as(user=_required(name, "/user ID"))
        self._show_persona()

    def _profile(self, text: str) -> None:
        """TEXT: describe who asks"""
        self.conversation.answer_as(profile=_required(text, "/profile TEXT"))
        self._show_persona()

    def _base(self, rest: str) -> None:
        """show the answer of the base model, too, drawn with the same seed; again: no longer"""
        self.beside = not self.beside
        self._note(f"The base model {'answers, too' if self.beside else 'no longer answers'}.")

    def _rewards(self, rest: str) -> None:
        """what the rewards of the recipe make of the last answer"""
        from .rewards import trial_table

        trial = self.rewards()
        show_table(trial_table(trial.completion.text, [trial]))

    def _up(self, rest: str) -> None:
        """I like the last answer"""
        self._note(f"kept in {self.conversation.rate(1)}")

    def _down(self, rest: str) -> None:
        """I do not like the last answer"""
        self._note(f"kept in {self.conversation.rate(-1)}")

    def _edit(self, text: str) -> None:
        """TEXT: the answer that I wanted instead of the last"""
        self._note(f"kept in {self.conversation.rate(None, _required(text, '/edit TEXT'))}")

    def _retry(self, rest: str) -> None:
        """answer the last question once more; unless that succeeds, the old answer stays"""
        with self.conversation.retrying() as question:
            self._answer(question)

    def _new(self, rest: str) -> None:
        """begin a new conversation"""
        self.conversation.restart()

    def _save(self, name: str) -> None:
        """FILE: write the conversation as JSON"""
        path = path_of(_required(name, "/save FILE"), "/save")
        self.conversation.save(path)
        self._note(f"saved: {shlex.quote(str(path))}")

    def _help(self, rest: str) -> None:
        """this list"""
        emit("\n".join(f"/{name:8} {command.__doc__}" for name, command in _COMMANDS.items()))

    def _quit(self, rest: str) -> None:
        """end"""
        self._ends = True


_COMMANDS: dict[str, Callable[[_Session, str], None]] = {
    "as": _Session._as,
    "user": _Session._user,
    "profile": _Session._profile,
    "base": _Session._base,
    "rewards": _Session._rewards,
    "up": _Session._up,
    "down": _Session._down,
    "edit": _Session._edit,
    "retry": _Session._retry,
    "new": _Session._new,
    "save": _Session._save,
    "help": _Session._help,
    "quit": _Session._quit,
}


def _required(text: str, usage: str) -> str:
    if not text:
        raise PgrpoError(f"{usage.split()[0]} stands alone", remedy=f"Write {usage}.")
    return text


@contextmanager
def _line_editing() -> Iterator[None]:
    """Arrow keys, a history, and completion of commands while lines are typed, where Python has readline."""
    try:
        import readline
    except ImportError:
        yield
        return
    names = [f"/{name}" for name in _COMMANDS]

    def completed(text: str, state: int) -> str | None:
        return [*(name for name in names if name.startswith(text)), None][state]

    readline.parse_and_bind("tab: complete")
    readline.set_completer_delims(" ")
    readline.set_completer(completed)
    try:
        yield
    finally:
        readline.set_completer(None)
