import shutil
from pathlib import Path

import datasets
import pytest

from pgrpo_cli.data.sources import hub
from pgrpo_cli.data.sources.context import ReadContext
from pgrpo_cli.data.sources.generic import read_datasets
from pgrpo_cli.errors import DataError
from pgrpo_cli.recipe.sources import DatasetsSource


def rows(count, group="a"):
    return datasets.Dataset.from_dict(
        {"prompt": [f"{group} {i}" for i in range(count)], "preference_group": [group] * count}
    )


def read(folder, path="saved", **section):
    return read_datasets(DatasetsSource(path=path, **section), ReadContext(folder))


def prompts(records):
    return [record.messages[0]["content"] for record in records]


def test_a_saved_data_set_is_read_in_order(tmp_path):
    rows(600).save_to_disk(tmp_path / "saved")
    data = read(tmp_path)
    assert prompts(data.train) == [f"a {i}" for i in range(600)]
    assert [record.line for record in data.train] == list(range(1, 601))
    assert data.train[0].file == data.files[0].name == "saved:train"
    assert data.eval is None


def test_splits_are_chosen_by_name(tmp_path):
    splits = {"train": rows(3), "test": rows(2, "b"), "other": rows(1, "c")}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "saved")
    data = read(tmp_path, eval_split="test", limit=2)
    assert (prompts(data.train), prompts(data.eval)) == (["a 0", "a 1"], ["b 0", "b 1"])
    assert [file.name for file in data.files] == ["saved:train", "saved:test"]
    assert prompts(read(tmp_path, split="other").train) == ["c 0"]
    with pytest.raises(DataError, match="has no split 'dev'; it has 'train', 'test', 'other'"):
        read(tmp_path, split="dev")


def test_a_saved_split_has_no_other(tmp_path):
    rows(3).save_to_disk(tmp_path / "saved")
    with pytest.raises(DataError, match="has no split 'test'; it has 'train'"):
        read(tmp_path, eval_split="test")


def test_the_hash_is_one_of_the_rows_that_were_read(tmp_path):
    rows(3).save_to_disk(tmp_path / "saved")
    (first,) = read(tmp_path).files
    assert first == read(tmp_path).files[0]
    assert first != read(tmp_path, limit=2).files[0]
    shutil.rmtree(tmp_path / "saved")
    rows(3, "b").save_to_disk(tmp_path / "saved")
    assert first.sha256 != read(tmp_path).files[0].sha256


def test_columns_of_bytes_are_left_out(tmp_path):
    rows(1).add_column("raw", [b"\xff"]).save_to_disk(tmp_path / "saved")
    assert read(tmp_path).train[0].columns == {}


def test_a_folder_of_something_else_names_the_other_types(tmp_path):
    (tmp_path / "saved").mkdir()
    with pytest.raises(DataError, match="save_to_disk did not write") as caught:
        read(tmp_path)
    assert "set data.source.type to jsonl, csv or parquet" in caught.value.remedy


def test_a_damaged_folder_is_one_error(tmp_path):
    rows(3).save_to_disk(tmp_path / "saved")
    (arrow,) = (tmp_path / "saved").glob("*.arrow")
    arrow.write_bytes(arrow.read_bytes()[:100])
    with pytest.raises(DataError, match="data set 'saved:train' cannot be read"):
        read(tmp_path)


@pytest.mark.parametrize("path", ["no/such/folder", "../gone", "a b", "file.jsonl/"])
def test_what_is_neither_a_folder_nor_a_hub_id(tmp_path, path):
    with pytest.raises(DataError, match=r"no folder .* and no id of the hub"):
        read(tmp_path, path)


def test_a_folder_of_the_working_directory_is_not_taken_for_a_hub_id(tmp_path, monkeypatch):
    (tmp_path / "here" / "data").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="'here/data' is a file or folder of the working directory"):
        read(tmp_path / "here" / "data", "here/data")


@pytest.mark.parametrize("streaming", [False, True])
def test_offline_the_hub_is_one_error(tmp_path, monkeypatch, streaming):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match="data set 'someone/something:train' cannot be read") as caught:
        read(tmp_path, "someone/something", streaming=streaming)
    assert "HF_HUB_OFFLINE is set" in caught.value.remedy


@pytest.fixture
def hub_of_files(tmp_path, monkeypatch):
    """The library's own loading of a data set repository, with a folder in the place of the hub."""
    folder = tmp_path / "repository"
    folder.mkdir()
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    real_builder, real_load = datasets.load_dataset_builder, datasets.load_dataset

    def local(load):
        return lambda path, name, **rest: load(str(folder), name, cache_dir=str(tmp_path / "cache"), **rest)

    monkeypatch.setattr(datasets, "load_dataset_builder", local(real_builder))
    monkeypatch.setattr(datasets, "load_dataset", local(real_load))
    return folder


@pytest.mark.parametrize("streaming", [False, True])
def test_a_data_set_of_plain_files_is_read_both_ways(tmp_path, hub_of_files, streaming):
    rows(300).to_json(hub_of_files / "train.jsonl")
    rows(2, "b").to_json(hub_of_files / "test.jsonl")
    data = read(tmp_path, "some/set", eval_split="test", streaming=streaming)
    assert prompts(data.train) == [f"a {i}" for i in range(300)]
    assert prompts(data.eval) == ["b 0", "b 1"]
    assert prompts(read(tmp_path, "some/set", streaming=streaming, limit=2).train) == ["a 0", "a 1"]
    with pytest.raises(DataError):
        read(tmp_path, "some/set", split="dev", streaming=streaming)


def test_readers_of_anything_but_tables_are_refused(tmp_path, hub_of_files):
    (hub_of_files / "image.png").write_bytes(b"\x89PNG")
    with pytest.raises(DataError, match="is read by 'imagefolder'"):
        read(tmp_path, "some/set")


def test_no_code_of_a_data_set_is_run(tmp_path, hub_of_files):
    marker = tmp_path / "ran"
    (hub_of_files / "repository.py").write_text(f"open({str(marker)!r}, 'w')")
    with pytest.raises(DataError):
        read(tmp_path, "some/set")
    assert not marker.exists()
    assert "trust_remote_code" not in Path(hub.__file__).read_text()
