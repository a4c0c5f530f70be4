import errno
import json
import subprocess
import sys

import pytest

from pgrpo_cli.data import prepared
from pgrpo_cli.data.prepared import load_prepared, read_manifest
from pgrpo_cli.errors import DataError, ModelError, PgrpoError, RunError
from pgrpo_cli.recipe.schema import Recipe
from pgrpo_cli.verbs.prepare import prepare_data
from tests.support.tokenizer import byte_tokenizer


def recipe(source=None, *, seed=0, max_completion_tokens=16, model=None, **data):
    return Recipe.model_validate(
        {
            "name": "test",
            "seed": seed,
            "model": {"id": "random", **(model or {})},
            "data": {"source": source or {"type": "jsonl", "path": "rows.jsonl"}, **data},
            "rewards": [{"type": "length", "max": 5}],
            "rollout": {"max_completion_tokens": max_completion_tokens},
        }
    )


def write_rows(folder, rows, name="rows.jsonl"):
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def rows(**sizes):
    return [
        {"prompt": f"{group} {i}", "preference_group": group, "n": i}
        for group, size in sizes.items()
        for i in range(size)
    ]


@pytest.fixture
def folder(tmp_path):
    write_rows(tmp_path, rows(a=30, b=20))
    return tmp_path


def run(folder, made=None, *, run_dir=None, tokenizer=None, **options):
    return prepare_data(
        made or recipe(), run_dir or folder / "run", folder, tokenizer or byte_tokenizer(), **options
    )


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_rows_become_prompts_split_by_preference_group(folder):
    report = run(folder)
    train, evaluation = load_prepared(folder / "run", "train"), load_prepared(folder / "run", "eval")
    # A tenth of 30 and of 20 is held out.
    assert [(g.preference_group, g.train_prompts, g.eval_prompts) for g in report.groups] == [
        ("a", 27, 3),
        ("b", 18, 2),
    ]
    assert (len(train), len(evaluation)) == (report.train_prompts, report.eval_prompts) == (45, 5)
    assert report.groups[0].share == pytest.approx(27 / 45)
    # "a 9": 3 bytes and "<s>user\n" 6 + "<e>\n" 2 + "<s>assistant\n" 11; "a 29" has one more.
    assert report.groups[0].tokens_max == 23
    assert report.groups[0].tokens_mean == pytest.approx(22 + 20 / 30)
    assert train[0].prompt.endswith("<|im_start|>assistant\n")
    assert {prompt.columns["n"] for prompt in train + evaluation if prompt.preference_group == "b"} == set(
        range(20)
    )
    assert not {prompt.prompt for prompt in train} & {prompt.prompt for prompt in evaluation}
    assert (report.rejected, report.warnings, report.unchanged) == ({}, (), False)


def test_the_personas_prepare_with_their_own_split(tmp_path):
    source = {"type": "personas", "prompts": 100, "eval_prompts_per_group": 3}
    report = run(tmp_path, recipe(source))
    assert [group.train_prompts for group in report.groups] == [50, 17, 12, 8, 6, 4, 3]
    assert {group.eval_prompts for group in report.groups} == {3}
    assert any("5 of 7 preference groups have fewer than 16" in warning for warning in report.warnings)
    situations = [
        {prompt.columns["situation"] for prompt in load_prepared(tmp_path / "run", split)}
        for split in ("train", "eval")
    ]
    assert not situations[0] & situations[1]


def test_the_manifest_says_what_the_data_were_made_from(folder):
    model = {"system_prompt": "Be kind.", "chat_template_kwargs": {"enable_thinking": False}}
    report = run(folder, recipe(seed=5, model=model))
    manifest = read_manifest(folder / "run")
    assert manifest["seed"] == 5
    assert manifest["model"]["id"] == "random"
    assert manifest["model"]["system_prompt"] == "Be kind."
    assert manifest["model"]["chat_template_kwargs"] == {"enable_thinking": False}
    assert len(manifest["model"]["chat_template_sha256"]) == 64
    assert [source["name"] for source in manifest["sources"]] == ["rows.jsonl"]
    assert manifest["preference_groups"] == {"a": {"train": 27, "eval": 3}, "b": {"train": 18, "eval": 2}}
    assert manifest["data"]["max_prompt_tokens"] == 1024
    assert manifest["data_hash"] == report.data_hash


def test_another_directory_gets_the_same_bytes(folder):
    run(folder)
    run(folder, run_dir=folder / "other")
    assert contents(folder / "run") == contents(folder / "other")


def test_another_process_writes_the_same_bytes(folder):
    run(folder)
    code = (
        "import sys; from pathlib import Path; from tests.verbs.test_prepare import recipe, run; "
        "run(Path(sys.argv[1]), run_dir=Path(sys.argv[1]) / 'other')"
    )
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True)
    assert contents(folder / "run") == contents(folder / "other")


def test_preparing_again_says_that_nothing_changed_and_writes_nothing(folder):
    first = run(folder)
    before = {path: path.stat().st_mtime_ns for path in (folder / "run").rglob("*")}
    again = run(folder)
    assert again.unchanged
    assert again.data_hash == first.data_hash
    assert {path: path.stat().st_mtime_ns for path in (folder / "run" / "data").rglob("*")} == {
        path: time for path, time in before.items() if (folder / "run" / "data") in path.parents
    }


def test_other_rows_replace_the_data_of_a_run_without_checkpoints(folder):
    run(folder)
    write_rows(folder, rows(c=20))
    report = run(folder)
    assert not report.unchanged
    assert {prompt.preference_group for prompt in load_prepared(folder / "run", "train")} == {"c"}


def test_data_that_checkpoints_depend_on_are_not_replaced(folder):
    run(folder)
    (folder / "run" / "checkpoints" / "step-000010").mkdir(parents=True)
    assert run(folder).unchanged
    before = contents(folder / "run")
    write_rows(folder, rows(a=30, c=20))
    with pytest.raises(RunError) as caught:
        run(folder, recipe(seed=1))
    assert "trained on other data: seed, sources, preference_groups, files would differ" in str(caught.value)
    assert "--run-dir" in str(caught.value)
    assert contents(folder / "run") == before


def test_data_that_an_adapter_depends_on_are_not_replaced(folder):
    run(folder)
    (folder / "run" / "adapter").mkdir()
    (folder / "run" / "adapter" / "adapter_config.json").touch()
    write_rows(folder, rows(a=30, c=20))
    with pytest.raises(RunError, match="has an adapter trained on other data"):
        run(folder)


def test_damaged_data_are_repaired_even_under_checkpoints(folder):
    run(folder)
    (folder / "run" / "checkpoints" / "step-000010").mkdir(parents=True)
    before = contents(folder / "run")
    (arrow,) = (folder / "run" / "data" / "train").glob("*.arrow")
    arrow.write_bytes(b"damaged")
    assert not run(folder).unchanged
    assert contents(folder / "run") == before


def test_an_unreadable_manifest_is_repaired(folder):
    run(folder)
    (folder / "run" / "data" / "manifest.json").write_text("{")
    run(folder)
    assert len(load_prepared(folder / "run", "train")) == 45


def test_rejected_rows_are_counted_and_kept(folder):
    with open(folder / "rows.jsonl", "a") as file:
        file.write('{"prompt": ""\n{"prompt": " ", "preference_group": "a"}\n')
        file.write(json.dumps({"prompt": "x" * 2000, "preference_group": "a"}) + "\n")
    report = run(folder)
    assert report.rejected == {"empty prompt": 1, "not JSON": 1}
    assert report.left_out == {"longer than data.max_prompt_tokens": 1}
    kept = [json.loads(line) for line in report.rejected_path.read_text().splitlines()]
    assert [(row["file"], row["line"]) for row in kept] == [
        ("rows.jsonl", 51),
        ("rows.jsonl", 52),
        ("rows.jsonl", 53),
    ]
    assert report.train_prompts + report.eval_prompts == 50


def test_the_split_is_made_of_what_survives(folder):
    # Of 40 rows 20 are too long: a tenth of the other 20 is held out.
    write_rows(
        folder, [{"prompt": f"{'x' * (i % 2 * 2000)} {i}", "preference_group": "a"} for i in range(40)]
    )
    (group,) = run(folder).groups
    assert (group.train_prompts, group.eval_prompts) == (18, 2)


def test_prompt_and_completion_must_fit_the_context(folder):
    # Prompts have 22 or 23 tokens: with 16 for the completion only the 38 of one-digit numbers fit.
    report = run(folder, context=38)
    assert (report.left_out, report.rejected) == ({"longer than the model's context": 20 + 10}, {})
    assert report.train_prompts + report.eval_prompts == 20


def test_nothing_left_tells_why(folder):
    write_rows(
        folder, [{"prompt": "", "preference_group": "a"}, {"prompt": "x" * 2000, "preference_group": "a"}]
    )
    with pytest.raises(DataError) as caught:
        run(folder)
    message = str(caught.value)
    assert "no prompt is left to train on: 2 rows rejected\n  1 x empty prompt; 1 x longer than" in message
    assert "\n  rows.jsonl:1: empty prompt (the prompt is blank)\n" in message


@pytest.mark.parametrize("content", ["", "\n\n  \n"])
def test_an_empty_file_is_an_error(folder, content):
    (folder / "rows.jsonl").write_text(content)
    with pytest.raises(DataError, match=r"no rows at all in rows\.jsonl"):
        run(folder)


def test_a_group_whose_prompts_are_all_too_long_is_refused(folder):
    write_rows(folder, [*rows(a=20), {"prompt": "x" * 2000, "preference_group": "b"}])
    with pytest.raises(
        DataError, match=r"preference group 'b' has no training prompt; 1 of its rows (.|\n)*rows\.jsonl:21"
    ):
        run(folder)


def test_a_held_out_group_that_is_never_trained_is_refused(folder):
    write_rows(folder, rows(c=1), "held.jsonl")
    source = {"type": "jsonl", "path": "rows.jsonl", "eval_path": "held.jsonl"}
    with pytest.raises(DataError, match="preference group 'c' has no training prompt"):
        run(folder, recipe(source))


def test_a_row_that_a_reward_cannot_score_is_an_error_before_training(folder):
    run(folder)
    before = contents(folder / "run")
    answered = [{**row, "answer": None if row["prompt"] == "b 7" else "Tea."} for row in rows(a=30, b=20)]
    write_rows(folder, answered)
    made = recipe().model_dump() | {"rewards": [{"type": "rouge", "reference_column": "answer"}]}
    with pytest.raises(
        DataError, match=r"^1 of 50 prompts .*: rows\.jsonl:38: reward 'rouge': column 'answer'"
    ):
        run(folder, Recipe.model_validate(made))
    assert contents(folder / "run") == before


def test_held_out_files_stay_as_they_are(folder):
    write_rows(
        folder,
        [{"prompt": "new", "preference_group": "a"}, {"prompt": "b 3", "preference_group": "b"}],
        "held.jsonl",
    )
    report = run(folder, recipe({"type": "jsonl", "path": "rows.jsonl", "eval_path": "held.jsonl"}))
    assert [prompt.preference_group for prompt in load_prepared(folder / "run", "eval")] == ["a", "b"]
    assert report.train_prompts == 49  # "b 3" left training
    assert report.left_out == {"text is held out for evaluation too": 1}


def test_equal_rows_have_different_ids_and_a_warning(folder):
    write_rows(folder, rows(a=20)[:1] * 3 + rows(a=20))
    report = run(folder)
    prompts = load_prepared(folder / "run", "train") + load_prepared(folder / "run", "eval")
    assert len({prompt.prompt_id for prompt in prompts}) == len(prompts) == 23
    assert any(warning.startswith("3 of the prompts repeat") for warning in report.warnings)


def test_the_recipes_template_arguments_and_system_prompt_are_used(folder):
    template = "{{ loud }}{% for m in messages %}|{{ m['content'] }}{% endfor %}"
    made = recipe(model={"chat_template_kwargs": {"loud": 11}, "system_prompt": "Be kind."})
    run(folder, made, tokenizer=byte_tokenizer(chat_template=template))
    assert load_prepared(folder / "run", "train")[0].prompt.startswith("11|Be kind.|a ")


def test_a_tokenizer_without_chat_template_is_refused_before_anything_is_written(folder):
    with pytest.raises(ModelError, match="chat template"):
        run(folder, tokenizer=byte_tokenizer(chat_template=None))
    assert not (folder / "run").exists()


def test_a_full_disk_is_an_error_with_a_remedy_and_leaves_the_old_data(folder, monkeypatch):
    run(folder)
    before = contents(folder / "run")
    write_rows(folder, rows(c=20))

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(prepared, "_save_split", full)
    with pytest.raises(PgrpoError, match=r"No space left on device\n.*Make room") as caught:
        run(folder)
    assert caught.value.exit_code == 1
    assert contents(folder / "run") == before


def test_a_run_directory_that_is_a_file_is_an_error(folder):
    (folder / "run").write_text("")
    with pytest.raises(PgrpoError, match="cannot be written"):
        run(folder)


def test_progress_is_told(folder):
    stages = []
    run(folder, progress=lambda stage, done, total: stages.append((stage, done, total)))
    assert stages[0] == ("read", 0, 1)
    assert ("render", 50, 50) in stages
    assert stages[-1] == ("write", 1, 1)


def test_importing_the_verb_does_not_import_the_heavy_libraries():
    code = "import sys; import pgrpo_cli.verbs.prepare; "
    code += "print({'torch', 'datasets', 'transformers', 'pyarrow'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


def test_where_the_template_refuses_every_row_the_template_is_what_to_change(folder):
    template = "{% if messages[0].content != 'Hello!' %}{{ raise_exception('Only Hello!') }}{% endif %}Hello!"
    with pytest.raises(DataError) as caught:
        run(folder, tokenizer=byte_tokenizer(chat_template=template))
    assert "50 x refused by the chat template" in caught.value.message
    assert "model.chat_template" in caught.value.remedy


def test_a_system_prompt_without_a_place_is_noted_and_the_chat_template_is_recorded(folder):
    template = "{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}"
    made = recipe(model={"system_prompt": "Be kind.", "chat_template": template})
    report = run(folder, made, tokenizer=byte_tokenizer(chat_template=template))
    assert any("no place for a system message" in note for note in report.notes)
    assert load_prepared(folder / "run", "train")[0].prompt.startswith("Be kind.\n\na ")
    assert read_manifest(folder / "run")["model"]["chat_template"] == template
