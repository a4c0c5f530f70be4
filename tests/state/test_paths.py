"""What was measured about a machine is kept with the run."""

import json
from dataclasses import fields, replace

import pytest
import torch

from pgrpo_cli.errors import CheckpointError
from pgrpo_cli.model.policy import Paths
from pgrpo_cli.state.paths import as_begun, read_paths, write_paths
from pgrpo_cli.state.run import RunDirectory
from tests.support.runs import make_run, recipe_of


@pytest.mark.parametrize(
    "paths",
    [
        Paths(),
        Paths(False, False, graphs=False, reason="recurrent", rollout_dtype=torch.float32),
        Paths(rollout_dtype=torch.bfloat16),
        Paths(copy_from_rows=64),
        Paths(copy_from_rows=None, tokens_per_batch=700, tokens_per_micro_batch=300),
    ],
)
def test_what_is_written_is_read(tmp_path, paths):
    write_paths(RunDirectory(tmp_path), paths.as_record(), device="cpu", compute_dtype="float32")
    assert Paths.from_record(read_paths(RunDirectory(tmp_path), "cpu")) == paths


OTHERS = {
    "shared_prefix": False,
    "packed": False,
    "left_padding": False,
    "graphs": False,
    "reason": "recurrent",
    "copy_from_rows": 64,
    "rollout_dtype": torch.bfloat16,
    "tokens_per_batch": 700,
    "tokens_per_micro_batch": 300,
}


@pytest.mark.parametrize("field", [field.name for field in fields(Paths)])
def test_every_field_that_is_written_is_read(tmp_path, field):
    paths = replace(Paths(), **{field: OTHERS[field]})
    assert paths != Paths()
    write_paths(RunDirectory(tmp_path), paths.as_record(), device="cpu", compute_dtype="float32")
    assert Paths.from_record(read_paths(RunDirectory(tmp_path), "cpu")) == paths


def test_a_record_without_left_padding_is_one_of_an_earlier_version(tmp_path):
    old = Paths(shared_prefix=False).as_record()
    del old["left_padding"]
    write_paths(RunDirectory(tmp_path), old, device="cpu", compute_dtype="float32")
    assert Paths.from_record(read_paths(RunDirectory(tmp_path), "cpu")) == Paths(shared_prefix=False)


def test_another_kind_of_device_is_measured_anew(tmp_path):
    write_paths(RunDirectory(tmp_path), Paths().as_record(), device="cuda", compute_dtype="float32")
    assert read_paths(RunDirectory(tmp_path), "cpu") is None


def test_a_run_without_a_record_is_measured_anew(tmp_path):
    assert read_paths(RunDirectory(tmp_path), "cpu") is None


@pytest.mark.parametrize("text", ["", "[]", '{"device": "cpu"}', "[" * 100_000])
def test_a_damaged_record_is_refused_with_a_remedy(tmp_path, text):
    (tmp_path / "paths.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"paths\.json is damaged") as refusal:
        read_paths(RunDirectory(tmp_path), "cpu")
    assert "Delete it" in refusal.value.remedy


@pytest.mark.parametrize(
    "wrong", [{"rollout_dtype": "float17"}, {"rollout_dtype": "nn"}, {"rollout_dtype": 3}, {"reason": []}]
)
def test_an_unknown_dtype_or_reason_is_damage(tmp_path, wrong):
    write_paths(RunDirectory(tmp_path), Paths().as_record(), device="cpu", compute_dtype="float32")
    record = json.loads((tmp_path / "paths.json").read_text())
    (tmp_path / "paths.json").write_text(json.dumps({**record, **wrong}))
    with pytest.raises(CheckpointError):
        read_paths(RunDirectory(tmp_path), "cpu")


def dtype_of(recipe):
    return recipe.model.compute_dtype


def test_a_run_keeps_the_compute_dtype_that_auto_was_taken_as(tmp_path):
    auto = recipe_of(model__compute_dtype="auto")
    run = make_run(tmp_path / "run", auto)
    assert dtype_of(as_begun(run, auto)) == "auto"  # Nothing is recorded.
    write_paths(run, Paths().as_record(), device="cuda", compute_dtype="float16")
    assert dtype_of(as_begun(run, auto)) == "float16"
    assert dtype_of(as_begun(run, recipe_of(model__compute_dtype="float32"))) == "float32"
    # A run that has not begun is free to take another.
    assert dtype_of(as_begun(RunDirectory(tmp_path / "new"), auto)) == "auto"


def test_a_run_whose_recipe_names_the_dtype_goes_on_in_it(tmp_path):
    """As those do that began when bfloat16 was the default, and have none in paths.json."""
    run = make_run(tmp_path / "run", recipe_of(model__compute_dtype="bfloat16"))
    assert dtype_of(as_begun(run, recipe_of(model__compute_dtype="auto"))) == "bfloat16"


@pytest.mark.parametrize("text", ["", "[]", '{"compute_dtype": "float17"}', '{"compute_dtype": []}'])
def test_a_damaged_record_of_the_dtype_is_refused(tmp_path, text):
    auto = recipe_of(model__compute_dtype="auto")
    run = make_run(tmp_path / "run", auto)
    run.paths_path.write_text(text)
    with pytest.raises(CheckpointError, match=r"paths\.json is damaged"):
        as_begun(run, auto)


def test_a_run_on_trl_has_measured_nothing_but_keeps_its_dtype(tmp_path):
    run = make_run(tmp_path / "run", recipe_of(), adapter="done")
    write_paths(run, {}, device="cpu", compute_dtype="bfloat16")
    assert read_paths(run, "cpu") is None
    assert as_begun(run, recipe_of()).model.compute_dtype == "bfloat16"
