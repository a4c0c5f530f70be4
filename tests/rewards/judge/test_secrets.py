"""Where the key, the prompts and the completions of a judge go, and where not."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from pgrpo_cli.errors import RecipeError, RewardError
from pgrpo_cli.recipe.rewards import JudgeReward
from pgrpo_cli.rewards.base import BuildContext
from pgrpo_cli.rewards.build import build_rewards
from pgrpo_cli.rewards.judge.client import is_this_machine
from pgrpo_cli.rewards.judge.reward import Judge, build_judge
from tests.support.judge import Answer, by_length, echo, judged, missing, values

pytestmark = pytest.mark.filterwarnings("error")


def secret(monkeypatch: pytest.MonkeyPatch, value: str = "sk-very-secret") -> str:
    monkeypatch.setenv("JUDGE_KEY", value)
    return value.strip()


def test_the_key_goes_into_the_header_and_nowhere_else(
    serve: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    key = secret(monkeypatch, "sk-very-secret\n")
    # A server that repeats the key, in an answer that is kept and in its refusals.
    server = serve(
        lambda a: (
            Answer(f"Incorrect {key}", status=401)
            if "refuse" in a.text
            else json.dumps({"score": 2, "why": key})
        )
    )
    section = server.section(api_key_env="JUDGE_KEY")
    judge = build_judge(section, BuildContext(tmp_path, False, run_dir=tmp_path))
    assert values(judge, ["fine"]) == [1 / 9]
    with pytest.raises(RewardError) as caught:
        values(judge, ["refuse"])
    assert {asked.headers["Authorization"] for asked in server.asked} == {f"Bearer {key}"}
    assert "Incorrect ***" in str(caught.value)
    assert "Check base_url and model, and the key in JUDGE_KEY." in str(caught.value)
    for said in (str(caught.value), repr(judge), repr(section), json.dumps([a.body for a in server.asked])):
        assert key not in said
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    assert not any(key.encode() in path.read_bytes() for path in files)


def test_a_short_key_changes_no_score(serve: Any, tmp_path: Path) -> None:
    server = serve(lambda a: '{"score": 10}' if echo(a) == "fine" else '{"score": 11}')
    judge = Judge(server.section(concurrency=1), tmp_path / "judge.sqlite", "1")
    found = values(judge, ["fine", "x"])
    assert found[0] == 1.0
    assert missing(found) == [False, True]
    # It is blotted out of what is shown, sent and kept all the same.
    assert "it said '{\"score\": ******}'" in judge.complaints()[0]
    assert '{"score": ******}' in json.dumps(server.asked[2].body).replace('\\"', '"')
    assert b'{"score": ***0}' in b"".join(path.read_bytes() for path in tmp_path.iterdir())


def test_without_a_key_no_header_is_sent(serve: Any) -> None:
    server = serve(by_length)
    judged(server, "x")
    assert "Authorization" not in server.asked[0].headers


@pytest.mark.parametrize(
    ("value", "said"), [(None, "is not set"), ("", "is not set"), ("sk\tx", "no key has")]
)
def test_a_key_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, value: str | None, said: str) -> None:
    if value is None:
        monkeypatch.delenv("JUDGE_KEY", raising=False)
    else:
        monkeypatch.setenv("JUDGE_KEY", value)
    section = JudgeReward(base_url="http://localhost", model="m", api_key_env="JUDGE_KEY")
    with pytest.raises(RecipeError, match=f"JUDGE_KEY .*{said}"):
        build_judge(section, BuildContext(Path(), False))


@pytest.mark.parametrize(
    ("host", "here"),
    [
        ("127.0.0.1", True), ("127.8.8.8", True), ("localhost", True), ("a.localhost", False), ("::1", True),
        ("0.0.0.0", False), ("10.0.0.1", False), ("example.org", False), ("localhost.example.org", False),
        ("127.0.0.1.example.org", False), ("::ffff:10.0.0.1", False),
    ],
)  # fmt: skip
def test_which_hosts_are_this_machine(host: str, here: bool) -> None:
    assert is_this_machine(host) is here


def test_another_machine_must_be_allowed_by_name() -> None:
    section = JudgeReward(base_url="https://Judge.example.org/v1", model="m")
    with pytest.raises(RecipeError) as caught:
        build_rewards([section], Path(), allow_code=True)
    assert "sends prompts and completions to judge.example.org" in str(caught.value)
    assert "add --allow-host judge.example.org" in str(caught.value)
    with pytest.raises(RecipeError):
        build_rewards([section], Path(), allow_code=True, allowed_hosts=["example.org"])
    assert build_rewards([section], Path(), allow_code=False, allowed_hosts=["judge.Example.org"]).terms


def test_a_redirect_is_not_followed(serve: Any) -> None:
    elsewhere = serve(by_length)
    server = serve(lambda a: Answer(status=307, headers={"Location": elsewhere.url}))
    with pytest.raises(RewardError, match=f"refuses requests: 307: it redirects to {elsewhere.url}"):
        judged(server, "x")
    assert elsewhere.asked == []
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("name", "value", "what", "remedy"),
    [
        ("ALL_PROXY", "socks5://me:sesame@127.0.0.1:1", "a proxy", "pip install socksio"),
        ("https_proxy", "socks://127.0.0.1:1", "a proxy", "http://HOST:PORT"),
        ("SSL_CERT_FILE", "/nowhere", "certificates", "or unset it"),
    ],
)
def test_a_proxy_or_certificates_of_no_use_show_before_anything_is_asked(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, what: str, remedy: str
) -> None:
    # As on a machine that lacks it.
    monkeypatch.setitem(sys.modules, "socksio", None)
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    monkeypatch.setenv(name, value)
    section = JudgeReward(base_url="https://example.org/v1", model="m")
    with pytest.raises(RewardError) as caught:
        build_judge(section, BuildContext(Path(), False, allowed_hosts=frozenset(["example.org"])))
    said = f"the environment ({name}) names {what} that cannot be used for example.org"
    assert said in caught.value.message
    assert remedy in str(caught.value.remedy)
    assert "sesame" not in str(caught.value)
    # A judge here needs neither.
    assert build_judge(JudgeReward(base_url="http://localhost", model="m"), BuildContext(Path(), False))


def test_a_judge_here_is_asked_without_a_proxy(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy, server = serve(by_length), serve(echo)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.server_port}")
    assert judged(server, "10") == [1.0]
    assert proxy.asked == []
