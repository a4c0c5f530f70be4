"""The page in a headless Chromium: it chats, rates, and runs a taste test; it asks its own server alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pgrpo_cli.cli.terminal import safe
from pgrpo_cli.conversation.speaker import Speaker
from pgrpo_cli.feedback.file import read_feedback
from tests.support.browser import CHROMIUM, Tab, opened
from tests.support.serving import served

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")

CARDS = "[...document.querySelectorAll('#log .beside:last-child .answer')]"


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    """A run whose files of feedback are the test's own."""
    return Path(shutil.copytree(run, tmp_path / "run"))


def click(tab: Tab, selector: str) -> None:
    tab.evaluate(f"document.querySelector({json.dumps(selector)}).click()")


def write(tab: Tab, name: str, text: str) -> None:
    tab.evaluate(f"at({json.dumps(name)}).value = {json.dumps(text)}")


def press(tab: Tab, label: str) -> None:
    """The button of that label in the first answer of the last row."""
    buttons = f"[...{CARDS}[0].querySelectorAll('button')]"
    tab.evaluate(f"{buttons}.find((b) => b.textContent === {json.dumps(label)}).click()")


def asked(tab: Tab, question: str) -> list[str]:
    """The answers to a question, when they are complete."""
    before = tab.evaluate("document.querySelectorAll('#log .beside').length")
    write(tab, "question", question)
    click(tab, "#send")
    tab.wait(f"document.querySelectorAll('#log .beside').length > {before} && at('stop').hidden")
    texts: list[str] = tab.evaluate(f"{CARDS}.map((card) => card.querySelector('.text').textContent)")
    return texts


def is_clean(tab: Tab, url: str, width: int) -> None:
    """Nothing was complained about or asked elsewhere, and nothing is wider than the page."""
    assert tab.complaints == []
    assert all(request.startswith(f"{url}/") for request in tab.requests)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("width", [360, 1200])
def test_one_chats_as_a_group_beside_the_base_model_and_rates(
    speaker: Speaker, copy: Path, width: int
) -> None:
    with served(speaker, copy) as url, opened(f"{url}/", width) as tab:
        tab.wait("at('origin').textContent")
        assert tab.evaluate("[...at('voice').options].map((o) => o.value)") == [
            "run@often", "run@seldom", "run@é", "run", "base",
        ]  # fmt: skip
        assert "About the user: they write often" in tab.evaluate("at('told').textContent")
        # Of 600 seeds that the page might draw, one has an empty answer here, which nobody can rate.
        tab.evaluate("crypto.getRandomValues = (numbers) => numbers.fill(3)")
        write(tab, "user", "ana")
        first = asked(tab, "often 3")
        assert len(first) == 2
        press(tab, "Like")
        tab.wait("document.querySelector('#log span.quiet').textContent === 'kept'")
        press(tab, "Edit")
        tab.evaluate("document.querySelector('.answer textarea').value = 'what I wanted'")
        press(tab, "Keep my version")
        tab.wait("document.querySelector('.answer textarea') === null")
        asked(tab, "and again?")
        press(tab, "Dislike")
        tab.wait(
            "[...document.querySelectorAll('#log span.quiet')].filter((s) => s.textContent).length === 2"
        )
        is_clean(tab, url, width)
    liked, edited, disliked = read_feedback(copy / "feedback.jsonl").ratings
    assert (liked.rating, liked.edited, liked.user, liked.model) == (1, None, "ana", "tuned")
    assert (edited.rating, edited.edited) == (None, "what I wanted")
    assert (liked.preference_group, liked.run, liked.step) == ("often", "run", 6)
    # Recorded without the profile, which the next run adds again.
    question = {"role": "user", "content": "often 3"}
    assert liked.messages == ({"role": "system", "content": "Be brief."}, question)
    # What was rated is what the model says to the same with the profile, and with this seed.
    assert liked.seed == 3
    usual = speaker.recipe.eval.conversation_temperature
    told = ({"role": "system", "content": "Be brief.\n\nAbout the user: they write often"}, question)
    assert speaker.ask(told, seed=liked.seed, temperature=usual).read() == liked.answer
    # The conversation went on from the tuned model's answer.
    assert disliked.messages[1:] == (
        {"role": "user", "content": "often 3"},
        {"role": "assistant", "content": liked.answer},
        {"role": "user", "content": "and again?"},
    )


@pytest.mark.parametrize("width", [360, 1200])
def test_ten_pairs_are_picked_blind_and_the_names_come_at_the_end(
    speaker: Speaker, copy: Path, width: int
) -> None:
    with served(speaker, copy) as url, opened(f"{url}/", width) as tab:
        tab.wait("at('origin').textContent")
        click(tab, "#to-taste")
        write(tab, "taster", "ana")
        click(tab, "#begin button")
        for number in range(10):
            tab.wait("!at('pair').hidden && !waiting")
            assert "tuned" not in tab.evaluate("at('pair').textContent")
            if number == 4:
                click(tab, "[data-mark=s]")
            elif number % 2:
                click(tab, f"[data-mark='{1 + number % 4 // 2}']")
            else:
                key = "{key: '=', bubbles: true}"
                tab.evaluate(f"document.body.dispatchEvent(new KeyboardEvent('keydown', {key}))")
            tab.wait("!waiting")
        click(tab, "#undo")
        tab.wait("!waiting")
        click(tab, "[data-mark='2']")
        tab.wait("!waiting")
        is_clean(tab, url, width)
        click(tab, "#end")
        tab.wait("at('verdict').textContent")
        assert "tuned against base:" in tab.evaluate("at('verdict').textContent")
        is_clean(tab, url, width)
    picks = read_feedback(copy / "taste.jsonl").picks
    shown = [pick for pick in picks if pick.answers[0].strip() != pick.answers[1].strip()]
    # Ten pairs, of which one was skipped; pairs of equal answers are ties that nobody sees.
    assert len(shown) == 9
    assert {pick.user for pick in picks} == {"ana"}
    assert all(set(pick.models) == {"base", "tuned"} for pick in picks)
    assert shown[-1].pick == "2"


def test_whatever_a_model_says_is_shown_as_text(
    speaker: Speaker, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evil = "<img src=x onerror=alert(1)><script>document.title='taken'</script> \x1b[2J\u202egnp \u200b**x**"

    def ask(messages: Any, **options: Any) -> Any:
        reply = Speaker.ask(speaker, messages, **options)
        monkeypatch.setattr(type(reply), "__iter__", lambda self: iter(evil.split(" ")))
        return reply

    monkeypatch.setattr(speaker, "ask", ask)
    with served(speaker, copy) as url, opened(f"{url}/", 1200) as tab:
        tab.wait("at('origin').textContent")
        texts = asked(tab, "<b>often</b>")
        assert texts[0] == evil.replace(" ", "").replace("\x1b", "\\u001b").replace(
            "\u202e", "\\u202e"
        ).replace("\u200b", "\\u200b")
        assert tab.evaluate("document.querySelectorAll('#log img, #log script, #log b').length") == 0
        assert tab.evaluate("document.title") == "run · pgrpo"
        is_clean(tab, url, 1200)


def test_the_page_escapes_what_the_terminal_escapes(speaker: Speaker, copy: Path) -> None:
    # All characters of 16 bits but halves of pairs, and the tags beyond them.
    codes = [*range(0xD800), *range(0xE000, 0x10000), *range(0xE0000, 0xE0080), 0x1F600]
    text = "".join(map(chr, codes))
    with served(speaker, copy) as url, opened(f"{url}/", 1200) as tab:
        assert tab.evaluate(f"safe({json.dumps(text)})") == safe(text)


def test_the_page_asks_for_the_token_once_and_keeps_it_nowhere(speaker: Speaker, copy: Path) -> None:
    with served(speaker, copy, token="long-secret") as url, opened(f"{url}/", 1200) as tab:
        tab.wait("!at('key').hidden")
        write(tab, "token", "long-secret")
        click(tab, "#key button")
        tab.wait("at('origin').textContent")
        assert asked(tab, "often 3")
        assert tab.evaluate("document.cookie + localStorage.length + sessionStorage.length") == "00"


def test_nothing_from_elsewhere_runs_or_loads(speaker: Speaker, copy: Path) -> None:
    with served(speaker, copy) as url, opened(f"{url}/", 1200) as tab:
        tab.wait("at('origin').textContent")
        tab.evaluate("document.body.append(made('script', '', 'document.title = 1'))")
        tab.evaluate("fetch('http://127.0.0.2:9/').catch(() => 0)")
        assert tab.evaluate("document.title") == "run · pgrpo"
        assert len([told for told in tab.complaints if "Content Security Policy" in told]) >= 2
        assert [request for request in tab.requests if not request.startswith(url)] == []
