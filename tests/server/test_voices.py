"""The names of models, whatever a run and its preference groups are called."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pgrpo_cli.conversation.speaker import Speaker
from pgrpo_cli.server.errors import ApiError
from pgrpo_cli.server.voices import Voice, Voices


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "run"))


def renamed(run: Path, old: str, new: str) -> None:
    """Give a preference group of a run another name, as a stranger could."""
    path = run / "data" / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    groups = manifest["preference_groups"]
    manifest["preference_groups"] = {new if name == old else name: groups[name] for name in groups}
    path.write_text(json.dumps(manifest), encoding="utf-8")


def test_a_run_called_base_is_tuned(speaker: Speaker, run: Path) -> None:
    voices = Voices(run, speaker.recipe, "base")
    assert [voice.model for voice in voices.listed][:3] == ["base", "tuned", "tuned@often"]
    assert voices.find("base").which == "base"
    assert voices.find("base@often") == Voice("base@often", "base", "often")
    assert voices.find("tuned@often") == Voice("tuned@often", "tuned", "often")


@pytest.mark.parametrize("name", ["a@b", "<script>alert(1)</script>", "\x1b[2J", "../../etc", ""])
def test_whatever_a_group_is_called_it_is_a_name_and_nothing_else(
    speaker: Speaker, copy: Path, name: str
) -> None:
    renamed(copy, "often", name)
    voices = Voices(copy, speaker.recipe, "run")
    assert voices.find(f"run@{name}").preference_group == name


def test_a_run_without_its_data_answers_as_nobody_in_particular(speaker: Speaker, copy: Path) -> None:
    shutil.rmtree(copy / "data")
    voices = Voices(copy, speaker.recipe, "run")
    assert [voice.model for voice in voices.listed] == ["base", "run"]
    assert voices.messages(voices.find("run"), [{"role": "user", "content": "Hi"}])[0]["role"] == "system"
    with pytest.raises(ApiError, match="there is no model 'run@often'"):
        voices.find("run@often")


def test_a_preset_is_read_once(speaker: Speaker, copy: Path) -> None:
    voices = Voices(copy, speaker.recipe, "run")
    before = voices.preset(voices.find("run@often"))
    shutil.rmtree(copy / "data")
    assert voices.preset(voices.find("base@often")) is before


@pytest.mark.parametrize(
    ("model", "told", "seen"),
    [
        ("run", ["Rhyme."], "Rhyme."),
        ("run", ["Rhyme.", "Be kind."], "Rhyme.\n\nBe kind."),
        ("run", ["", " \n"], "Be brief."),
        ("run@often", [""], "Be brief.\n\nAbout the user: they write often"),
        ("run@often", ["A", "", "B"], "Be brief.\n\nAbout the user: they write often\n\nA\n\nB"),
    ],
)
def test_system_messages_of_the_client_are_one_and_blank_ones_are_none(
    speaker: Speaker, run: Path, model: str, told: list[str], seen: str
) -> None:
    voices = Voices(run, speaker.recipe, "run")
    question = {"role": "user", "content": "Hi"}
    asked = [*({"role": "system", "content": text} for text in told), question]
    assert voices.messages(voices.find(model), asked) == [{"role": "system", "content": seen}, question]
