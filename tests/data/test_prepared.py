import hashlib
import json
import os
from dataclasses import replace

import pytest

from pgrpo_cli.data import prepared
from pgrpo_cli.data.prepared import load_prepared, publish, read_manifest, recover, verify, write_prepared
from pgrpo_cli.data.records import RejectedRow
from pgrpo_cli.errors import DataError
from tests.support.records import prompt

SPLITS = {
    "train": [prompt("p1", "a", answer=[1, {"x": None}]), prompt("p2", "b", length=5)],
    "eval": [prompt("p3", "a", text="naïve 🎷")],
}
REJECTED = [RejectedRow("not JSON", "at 3", "f.jsonl", 2, None, "{\udc00")]


def publish_new(run_dir, splits=SPLITS, **description):
    manifest = write_prepared(run_dir, splits, REJECTED, description)
    publish(run_dir)
    return manifest


def files_below(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_was_written_is_loaded_in_order(tmp_path):
    publish_new(tmp_path)
    assert load_prepared(tmp_path, "train") == SPLITS["train"]
    assert load_prepared(tmp_path, "eval") == SPLITS["eval"]


def test_users_are_kept_where_some_are_known(tmp_path):
    known = {
        "train": [replace(prompt("p1"), user_id="u"), prompt("p2")],
        "eval": [replace(prompt("p3"), user_id="v")],
    }
    with_users = publish_new(tmp_path, known)
    assert [p.user_id for p in load_prepared(tmp_path, "train")] == ["u", None]
    assert load_prepared(tmp_path, "eval") == known["eval"]
    # Data without users have no column for them.
    nobody = {half: [replace(p, user_id=None) for p in prompts] for half, prompts in known.items()}
    assert publish_new(tmp_path / "other", nobody)["data_hash"] != with_users["data_hash"]
    assert b"user_id" not in b"".join(files_below(tmp_path / "other" / "data" / "train").values())


def test_an_empty_half_can_be_stored(tmp_path):
    publish_new(tmp_path, {"train": SPLITS["train"], "eval": []})
    assert load_prepared(tmp_path, "eval") == []


def test_rejected_rows_are_kept_with_their_reason(tmp_path):
    publish_new(tmp_path)
    row = json.loads((tmp_path / "data" / "rejected.jsonl").read_text())
    assert (row["file"], row["line"], row["reason"], row["detail"]) == ("f.jsonl", 2, "not JSON", "at 3")


def test_the_manifest_holds_the_description_and_every_file(tmp_path):
    manifest = publish_new(tmp_path, seed=3)
    assert (
        manifest == read_manifest(tmp_path) == json.loads((tmp_path / "data" / "manifest.json").read_text())
    )
    assert manifest["seed"] == 3
    on_disk = {path.as_posix() for path in files_below(tmp_path / "data")}
    assert on_disk == manifest["files"].keys() | {"manifest.json"}


def test_the_fingerprint_is_the_hash_of_the_content_as_json(tmp_path):
    prompts = [*SPLITS["train"], *SPLITS["eval"], prompt("ü", length=0)]
    publish_new(tmp_path, {"train": prompts, "eval": []})
    columns = {
        "prompt_id": [p.prompt_id for p in prompts],
        "preference_group": [p.preference_group for p in prompts],
        "prompt": [p.prompt for p in prompts],
        "input_ids": [list(p.input_ids) for p in prompts],
        "columns": [json.dumps(p.columns, sort_keys=True) for p in prompts],
        "messages": [json.dumps(p.messages, sort_keys=True) for p in prompts],
    }
    expected = hashlib.sha256(json.dumps(columns, sort_keys=True).encode()).hexdigest()[:16]
    state = json.loads((tmp_path / "data" / "train" / "state.json").read_text())
    assert state["_fingerprint"] == expected


def test_the_same_content_gives_the_same_bytes(tmp_path):
    publish_new(tmp_path / "one")
    publish_new(tmp_path / "two")
    assert files_below(tmp_path / "one") == files_below(tmp_path / "two")


def test_the_data_hash_follows_the_content_and_not_the_description(tmp_path):
    plain = publish_new(tmp_path / "one")["data_hash"]
    assert publish_new(tmp_path / "two", seed=1)["data_hash"] == plain
    other = {"train": SPLITS["train"][:1], "eval": SPLITS["eval"]}
    assert publish_new(tmp_path / "three", other)["data_hash"] != plain


def test_nothing_prepared_says_what_to_run(tmp_path):
    assert read_manifest(tmp_path) is None
    with pytest.raises(DataError, match=r"no prepared data\n.*pgrpo prepare"):
        load_prepared(tmp_path, "train")


def test_a_changed_file_is_named(tmp_path):
    publish_new(tmp_path)
    (arrow,) = (tmp_path / "data" / "train").glob("*.arrow")
    content = bytearray(arrow.read_bytes())
    content[len(content) // 2] ^= 1
    arrow.write_bytes(content)
    with pytest.raises(DataError, match=r"\.arrow is not what `pgrpo prepare` wrote"):
        load_prepared(tmp_path, "train")
    assert load_prepared(tmp_path, "eval") == SPLITS["eval"]


def test_a_missing_file_is_named(tmp_path):
    manifest = publish_new(tmp_path)
    (tmp_path / "data" / "rejected.jsonl").unlink()
    with pytest.raises(DataError, match=r"rejected\.jsonl cannot be read"):
        verify(tmp_path, manifest)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"version": 1}', '{"version": 1, "files": {}}'])
def test_a_broken_manifest_is_an_error_with_a_remedy(tmp_path, text):
    publish_new(tmp_path)
    (tmp_path / "data" / "manifest.json").write_text(text)
    with pytest.raises(DataError, match=r"manifest\.json(.|\n)*pgrpo prepare"):
        read_manifest(tmp_path)


def test_a_manifest_of_another_version_is_refused(tmp_path):
    publish_new(tmp_path)
    path = tmp_path / "data" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 99}))
    with pytest.raises(DataError, match="version 99, known is 2"):
        read_manifest(tmp_path)


def test_writing_leaves_the_old_data_until_they_are_published(tmp_path):
    publish_new(tmp_path)
    write_prepared(tmp_path, {"train": [prompt("new")], "eval": []}, [], {})
    assert load_prepared(tmp_path, "train") == SPLITS["train"]
    publish(tmp_path)
    assert load_prepared(tmp_path, "train") == [prompt("new")]
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_kill_at_any_moment_of_publishing_leaves_one_whole_data_set(tmp_path, monkeypatch):
    """Dies before each rename and each deletion in turn; what is found afterwards is the old or the new."""
    new = {"train": [prompt("new")], "eval": []}
    outcomes = []
    for calls_before_death in range(4):
        run_dir = tmp_path / str(calls_before_death)
        publish_new(run_dir)
        write_prepared(run_dir, new, [], {})
        with monkeypatch.context() as patch:
            dying(patch, calls_before_death)
            try:
                publish(run_dir)
                survived = True
            except Killed:
                survived = False
        recover(run_dir)
        found = load_prepared(run_dir, "train")
        assert found in (SPLITS["train"], new["train"])
        outcomes.append((survived, found == new["train"]))
        assert publish_new(run_dir, new)["data_hash"]
        assert load_prepared(run_dir, "train") == new["train"]
    assert outcomes == [(False, False), (False, False), (False, True), (True, True)]


class Killed(BaseException):
    pass


def dying(patch, calls_before_death):
    """Raise Killed at the call number `calls_before_death` (from 0) that changes the directory."""
    calls = {"made": 0}

    def guarded(function):
        def call(*args, **kwargs):
            if calls["made"] == calls_before_death:
                raise Killed
            calls["made"] += 1
            return function(*args, **kwargs)

        return call

    patch.setattr(os, "rename", guarded(os.rename))
    patch.setattr(prepared.shutil, "rmtree", guarded(prepared.shutil.rmtree))


@pytest.mark.parametrize(
    "name", ["mine.jsonl", "train/notes.txt", "raw/a.csv", "train/data-00000-of-00001.arrow.bak"]
)
def test_what_was_not_prepared_is_not_removed(tmp_path, name):
    publish_new(tmp_path)
    mine = tmp_path / "data" / name
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("mine")
    write_prepared(tmp_path, {"train": [prompt("new")], "eval": []}, [], {})
    with pytest.raises(DataError, match="is not prepared data, and would be removed"):
        publish(tmp_path)
    assert mine.read_text() == "mine"
    mine.unlink()


def test_reading_changes_nothing(tmp_path):
    (tmp_path / ".data-previous").mkdir()
    (tmp_path / ".data-previous" / "mine.txt").write_text("mine")
    (tmp_path / "data").mkdir()
    assert read_manifest(tmp_path) is None
    assert (tmp_path / ".data-previous" / "mine.txt").read_text() == "mine"


def test_recovery_prefers_the_new_data(tmp_path):
    publish_new(tmp_path)
    (tmp_path / ".data-previous").mkdir()
    recover(tmp_path)
    assert load_prepared(tmp_path, "train") == SPLITS["train"]
    assert not (tmp_path / ".data-previous").exists()


@pytest.mark.parametrize("disabled", [True, False])
def test_progress_bars_are_as_before(tmp_path, disabled):
    import datasets

    was_disabled = datasets.utils.are_progress_bars_disabled()
    switch = {True: datasets.disable_progress_bars, False: datasets.enable_progress_bars}
    try:
        switch[disabled]()
        publish_new(tmp_path)
        assert datasets.utils.are_progress_bars_disabled() == disabled
    finally:
        switch[was_disabled]()
