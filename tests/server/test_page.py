"""The page's own endpoints: the page, what the model is told, ratings."""

from __future__ import annotations

import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from pgrpo_cli.conversation.speaker import Speaker
from pgrpo_cli.feedback.file import read_feedback
from tests.support.serving import served

MESSAGES = [{"role": "user", "content": "often 3"}]
RATING: dict[str, Any] = {
    "model": "run@often", "messages": MESSAGES, "answer": "yes", "seed": 3, "rating": 1, "user": "ana",
}  # fmt: skip


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "run"))


def test_the_page_is_one_file_that_names_no_other(url: str) -> None:
    answer = httpx2.get(f"{url}/")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert not re.search(r"""(src|href|action)\s*=\s*["']?(?!data:,)\w""", answer.text)
    assert "http" not in answer.text


def test_what_a_group_is_told_is_shown_with_its_origin(url: str) -> None:
    found = httpx2.get(f"{url}/page/preset", params={"model": "run@é"}).json()
    told = {"role": "system", "content": "Be brief.\n\nAbout the user: they write é"}
    assert found == {"origin": "profile", "messages": [told]}
    assert httpx2.get(f"{url}/page/preset", params={"model": "run@x"}).status_code == 404


@pytest.mark.parametrize(
    ("change", "status", "says"),
    [
        ({"rating": None}, 400, "says nothing"),
        ({"rating": 2}, 400, "rating"),
        ({"answer": ""}, 400, "there is no answer"),
        ({"user": "\x1b[2J"}, 400, "can be printed"),
        ({"user": "a" * 201}, 400, "at most 200"),
        ({"model": "x"}, 404, "no model"),
        ({"messages": []}, 400, "messages"),
        ({"path": "/etc/passwd"}, 400, "path"),
    ],
)
def test_a_rating_that_could_not_be_read_again_is_refused(
    url: str, run: Path, change: dict[str, Any], status: int, says: str
) -> None:
    answer = httpx2.post(f"{url}/page/ratings", json={**RATING, **change})
    assert answer.status_code == status
    assert says in answer.json()["error"]["message"]
    assert not (run / "feedback.jsonl").exists()


def test_two_servers_on_one_run_lose_no_rating(speaker: Speaker, copy: Path) -> None:
    with served(speaker, copy) as one, served(speaker, copy) as two, ThreadPoolExecutor(8) as pool:
        for seed, url in enumerate((one, two) * 20):
            # Each of an answer of its own: of several ratings of one answer the last counts.
            pool.submit(httpx2.post, f"{url}/page/ratings", json={**RATING, "seed": seed}, timeout=60)
        pool.shutdown()
    found = read_feedback(copy / "feedback.jsonl")
    assert (len(found.ratings), found.problems, found.notes) == (40, (), ())
    assert {(rating.preference_group, rating.model, rating.step) for rating in found.ratings} == {
        ("often", "tuned", 6)
    }


def test_ratings_of_the_base_model_say_so(speaker: Speaker, copy: Path) -> None:
    with served(speaker, copy) as url:
        httpx2.post(
            f"{url}/page/ratings", json={**RATING, "model": "base@often", "edited": "no", "rating": None}
        )
    (rating,) = read_feedback(copy / "feedback.jsonl").ratings
    assert (rating.model, rating.step, rating.edited) == ("base", 0, "no")


def test_a_rating_has_no_profile_which_the_next_run_adds(speaker: Speaker, copy: Path) -> None:
    with served(speaker, copy) as url:
        httpx2.post(f"{url}/page/ratings", json=RATING)
    (rating,) = read_feedback(copy / "feedback.jsonl").ratings
    assert rating.messages == ({"role": "system", "content": "Be brief."}, *MESSAGES)


def test_nothing_is_written_through_a_link_of_a_strangers_run(
    speaker: Speaker, copy: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text("untouched\n")
    (copy / "feedback.jsonl").symlink_to(mine)
    with served(speaker, copy) as url:
        answer = httpx2.post(f"{url}/page/ratings", json=RATING)
    assert answer.status_code == 400
    assert "is a link" in answer.json()["error"]["message"]
    assert mine.read_text() == "untouched\n"


def test_a_torn_last_line_costs_no_rating(speaker: Speaker, copy: Path) -> None:
    (copy / "feedback.jsonl").write_text('{"version": 1, "kind": "rat')
    with served(speaker, copy) as url:
        assert httpx2.post(f"{url}/page/ratings", json=RATING).status_code == 201
    assert len(read_feedback(copy / "feedback.jsonl").ratings) == 1
