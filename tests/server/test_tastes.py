"""The taste test over HTTP: what is shown, what is kept, and what is not told before the end."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread, Timer
from typing import Any

import httpx2
import pytest

from pgrpo_cli.conversation import tasting
from pgrpo_cli.conversation.speaker import Speaker
from pgrpo_cli.errors import TrainingError
from pgrpo_cli.feedback.file import append, read_feedback
from pgrpo_cli.server import tastes
from tests.support.serving import served


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "run"))


@pytest.fixture
def client(speaker: Speaker, copy: Path) -> Iterator[httpx2.Client]:
    with served(speaker, copy) as url, httpx2.Client(base_url=f"{url}/page", timeout=60) as client:
        yield client


def begun(client: httpx2.Client, **asked: Any) -> Any:
    return client.post("/tastings", json={"user": "ana", **asked}).json()


def picked(client: httpx2.Client, state: Any, mark: str) -> Any:
    body = {"number": state["pair"]["number"], "mark": mark}
    return client.post(f"/tastings/{state['id']}/picks", json=body).json()


def test_the_answers_are_those_of_both_models_and_nothing_tells_whose(
    client: httpx2.Client, copy: Path, speaker: Speaker
) -> None:
    state = begun(client, preference_group="often")
    seen = json.dumps(state)
    for _ in range(3):
        state = picked(client, state, "1")
        seen += json.dumps(state)
    assert not any(word in seen for word in ("base", "tuned", "seed", "models"))
    ended = client.post(f"/tastings/{state['id']}/end", json={}).json()
    picks = read_feedback(copy / "taste.jsonl").picks
    mine = [pick for pick in picks if pick.pick == "1"]
    wins = sum(pick.models[0] == "tuned" for pick in mine)
    ties = len(picks) - 3
    assert ended["verdict"][0] == f"tuned against base: {wins} won, {3 - wins} lost, {ties} the same"
    system = {"role": "system", "content": "Be brief.\n\nAbout the user: they write often"}
    for pick in mine:
        assert (pick.user, pick.preference_group, pick.run) == ("ana", "often", "run")
        for model, answer, seed in zip(pick.models, pick.answers, pick.seeds, strict=True):
            messages = [system, pick.messages[-1]]
            assert speaker.ask(messages, which=model, seed=seed).read() == answer  # type: ignore[arg-type]


def test_a_server_that_ends_waits_for_no_pair(
    speaker: Speaker, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Event()

    def ask(messages: Any, *, stop: Event, **options: Any) -> Any:
        asked.set()
        return type("Reply", (), {"read": lambda self: str(stop.wait(15))})()

    monkeypatch.setattr(speaker, "ask", ask)

    def begin(url: str) -> None:
        with suppress(httpx2.HTTPError):
            httpx2.post(f"{url}/page/tastings", json={"user": "ana"}, timeout=60)

    with served(speaker, copy) as url:
        browser = Thread(target=begin, args=(url,))
        browser.start()
        assert asked.wait(20)
        told = time.monotonic()
    assert time.monotonic() - told < 6
    browser.join(20)
    assert not (copy / "taste.jsonl").exists()


def test_equal_answers_end_the_test_with_a_sentence(
    speaker: Speaker, copy: Path, client: httpx2.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    reply = type("Reply", (), {"read": lambda self: "Yes."})()
    monkeypatch.setattr(speaker, "ask", lambda *messages, **options: reply)
    state = begun(client)
    assert state["pair"] is None and state["picked"] == 10
    assert state["verdict"][0].startswith("The two answers were the same for 10 questions in a row")


def test_samples_are_answers_of_the_tuned_model(client: httpx2.Client, copy: Path) -> None:
    state = picked(client, begun(client, between="samples"), "2")
    assert state["picked"] == 1
    (pick,) = read_feedback(copy / "taste.jsonl").picks
    assert all(model is not None and model.startswith("tuned") for model in pick.models)


def test_a_pick_is_taken_back_and_its_pair_is_shown_again(client: httpx2.Client, copy: Path) -> None:
    first = begun(client)
    before = first["picked"]
    second = picked(client, first, "1")
    state = client.post(f"/tastings/{first['id']}/undo", json={}).json()
    # Pairs of equal answers in between are ties that count.
    assert (state["pair"], state["picked"]) == (first["pair"], second["picked"] - 1)
    state = picked(client, state, "s")
    assert (state["skipped"], state["pair"]) == (1, second["pair"])
    assert all(pick.pick == "=" for pick in read_feedback(copy / "taste.jsonl").picks) or before == 0


def test_only_the_pair_that_is_shown_is_picked_from(client: httpx2.Client) -> None:
    state = begun(client)
    picked(client, state, "1")
    again = client.post(
        f"/tastings/{state['id']}/picks", json={"number": state["pair"]["number"], "mark": "2"}
    )
    assert again.status_code == 409
    assert "not the one that is shown" in again.json()["error"]["message"]


def test_a_pick_whose_next_pair_failed_is_sent_again_and_recorded_once(
    speaker: Speaker, copy: Path, client: httpx2.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = begun(client)

    def fail(*messages: Any, **options: Any) -> Any:
        raise TrainingError("the memory of the device does not hold this conversation", remedy="Wait.")

    monkeypatch.setattr(speaker, "ask", fail)
    for _ in range(2):
        assert "memory of the device" in picked(client, state, "1")["error"]["message"]
    monkeypatch.undo()
    after = picked(client, state, "1")
    assert after["pair"]["number"] > state["pair"]["number"]
    assert [pick.pick for pick in read_feedback(copy / "taste.jsonl").picks if pick.pick != "="] == ["1"]


def test_a_pick_and_an_undo_whose_client_went_away_are_recorded_once(
    client: httpx2.Client, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = begun(client)
    ties = first["picked"]
    one = {"number": first["pair"]["number"], "mark": "1"}
    begins, may = Event(), Event()

    def slow(path: Path, record: Any) -> None:
        begins.set()
        assert may.wait(20)
        append(path, record)

    def given_up_and_again(path: str, body: Any) -> Any:
        """The response to a request that is sent again while the first one, given up, still writes."""
        begins.clear()
        may.clear()
        # A tie that is found on the way is written at once.
        monkeypatch.setattr(tasting, "append", slow)
        with suppress(httpx2.TimeoutException):
            client.post(path, json=body, timeout=0.3)
        assert begins.wait(20)
        monkeypatch.setattr(tasting, "append", append)
        Timer(0.5, may.set).start()
        answer = client.post(path, json=body)
        # By then the first one has written, too.
        assert may.wait(20)
        time.sleep(0.2)
        return answer

    answer = given_up_and_again(f"/tastings/{first['id']}/picks", one)
    assert answer.status_code == 200
    found = read_feedback(copy / "taste.jsonl").picks
    assert [pick.pick for pick in found if pick.pick != "="] == ["1"]
    # Ties that nobody saw are taken back with the pick before them, and the pick once.
    assert answer.json()["picked"] == len(found)
    answer = given_up_and_again(f"/tastings/{first['id']}/undo", {})
    assert answer.status_code == 409
    lines = [json.loads(line) for line in (copy / "taste.jsonl").read_text().splitlines()]
    undone = [line["undone"] for line in lines if line["kind"] == "undo"]
    assert len(undone) == len(set(undone)) == len(found) - ties


def test_when_there_are_no_more_questions_the_names_come(client: httpx2.Client, copy: Path) -> None:
    state = begun(client)
    while state["pair"]:
        state = picked(client, state, "=")
    assert state["verdict"][0] == "There are no questions left."
    assert "tuned against base: 0 won, 0 lost" in state["verdict"][1]
    # Half of the data's 32 rows are held out, and each is asked once.
    assert len({pick.prompt_id for pick in read_feedback(copy / "taste.jsonl").picks}) == 16


@pytest.mark.parametrize(
    ("asked", "status", "says"),
    [
        ({"user": " "}, 400, "your name"),
        ({"user": "\x1b[2J"}, 400, "your name"),
        ({"between": "base,/etc"}, 400, "between"),
        ({"preference_group": "oftn"}, 400, "Did you mean 'often'?"),
    ],
)
def test_who_cannot_pick_is_told_why(
    client: httpx2.Client, asked: dict[str, Any], status: int, says: str
) -> None:
    answer = client.post("/tastings", json={"user": "ana", **asked})
    assert answer.status_code == status
    assert says in answer.json()["error"]["message"]


def test_sessions_that_are_forgotten_keep_their_picks(
    client: httpx2.Client, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tastes, "MOST_SESSIONS", 2)
    first = begun(client)
    picked(client, first, "1")
    for user in ("ben", "cid"):
        begun(client, user=user)
    answer = client.post(f"/tastings/{first['id']}/undo", json={})
    assert answer.status_code == 404
    assert "the picks are kept" in answer.json()["error"]["message"]
    assert [pick.pick for pick in read_feedback(copy / "taste.jsonl").picks if pick.pick != "="] == ["1"]
