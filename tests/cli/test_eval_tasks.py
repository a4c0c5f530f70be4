"""`pgrpo eval` with `eval.lm_eval`, from the outside: a tiny trained run, lm-eval itself, tasks on disk."""

from __future__ import annotations

import json
import shutil
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import lm_eval
import lm_eval.tasks
import pytest
import torch
from lm_eval.models.huggingface import HFLM
from typer.testing import Result

from pgrpo_cli.eval import lm_eval as tasks_module
from pgrpo_cli.eval.alignment import policy_of
from pgrpo_cli.eval.targets import eval_target
from pgrpo_cli.recipe.load import load_recipe
from pgrpo_cli.state.run import RunDirectory
from pgrpo_cli.verbs.sweep import PlannedRun
from tests.support.evaluated import KEPT, pgrpo
from tests.support.lm_tasks import CHOICES, COPIES, DOCUMENTS, GROUP, PERPLEXITY, task_folder

NAMES = [CHOICES, COPIES, PERPLEXITY]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return task_folder(tmp_path / "tasks")


@pytest.fixture
def own_tasks_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the 14,000 tasks that the package brings, reading which takes ten seconds."""
    manager = partial(lm_eval.tasks.TaskManager, include_defaults=False)
    monkeypatch.setattr(lm_eval.tasks, "TaskManager", manager)


def evaluated(run: Path, folder: Path | None, *words: str, tasks: list[str], **section: Any) -> Result:
    value = {"tasks": tasks, "include_path": None if folder is None else str(folder), **section}
    return pgrpo("eval", run, "--set", f"eval.lm_eval={json.dumps(value)}", *words)


def scores(result: Result) -> dict[tuple[str, str], dict[str, Any]]:
    assert result.exit_code == 0, result.output
    return {(s["task"], s["metric"]): s for s in json.loads(result.stdout)["lm_eval"]["scores"]}


@pytest.mark.usefixtures("own_tasks_only")
def test_scores_are_those_of_lm_eval_itself(run: Path, folder: Path) -> None:
    found = scores(evaluated(run, folder, "--allow-code", "--json", tasks=NAMES, limit=None))
    target = eval_target(RunDirectory(run), load_recipe(run / "recipe.yaml"), run)
    policy = policy_of(target)
    model = HFLM(pretrained=policy.model, tokenizer=policy.tokenizer, batch_size=8)

    def theirs() -> dict[str, Any]:
        manager = lm_eval.tasks.TaskManager(include_path=str(folder))
        return lm_eval.simple_evaluate(model, tasks=list(NAMES), task_manager=manager)["results"]  # type: ignore[no-any-return]

    tuned = theirs()
    with policy.base():
        base = theirs()
    for task, metric in ((CHOICES, "acc"), (COPIES, "exact_match"), (PERPLEXITY, "byte_perplexity")):
        contrast = found[task, metric]["scores"]
        for which, told in (("base", base), ("tuned", tuned)):
            assert contrast[which]["mean"] == pytest.approx(told[task][f"{metric},none"], rel=1e-9)
            assert contrast[which]["n"] == DOCUMENTS
    # The adapter must matter, or the two could be mixed up.
    assert base[PERPLEXITY]["byte_perplexity,none"] != tuned[PERPLEXITY]["byte_perplexity,none"]
    assert base[CHOICES]["acc,none"] != tuned[CHOICES]["acc,none"]


@pytest.mark.usefixtures("own_tasks_only")
def test_a_mean_over_documents_has_an_interval_and_a_corpus_metric_none(run: Path, folder: Path) -> None:
    result = evaluated(run, folder, "--allow-code", "--json", tasks=[GROUP, PERPLEXITY], limit=10)
    found = scores(result)
    accuracy = found[CHOICES, "acc"]["scores"]["difference"]
    assert accuracy["n"] == 10
    assert accuracy["ci_low"] <= accuracy["mean"] <= accuracy["ci_high"]
    assert found[PERPLEXITY, "byte_perplexity"]["scores"]["difference"]["ci_low"] is None
    assert found[PERPLEXITY, "byte_perplexity"]["higher_is_better"] is False
    # The group's accuracy is that of its only part that has one.
    assert found[GROUP, "acc"]["scores"]["tuned"] == found[CHOICES, "acc"]["scores"]["tuned"]
    assert found[CHOICES, "acc"]["part_of"] == GROUP and found[GROUP, "acc"]["part_of"] is None
    assert found[COPIES, "exact_match"]["part_of"] is None


@pytest.mark.usefixtures("own_tasks_only")
def test_the_table_the_sentence_and_the_page_have_them(run: Path, folder: Path) -> None:
    result = evaluated(run, folder, "--allow-code", tasks=[GROUP, PERPLEXITY], limit=6)
    assert result.exit_code == 0, result.output
    assert GROUP in result.stdout and PERPLEXITY in result.stdout
    assert "General tasks, the tuned model against the base:" in result.stdout
    assert "it/s" not in result.output
    page = (run / "report.html").read_text()
    assert "What else can the model do?" in page and "byte_perplexity" in page


@pytest.mark.usefixtures("own_tasks_only")
def test_scores_stay_until_their_settings_or_files_change(run: Path, folder: Path) -> None:
    def again(**section: Any) -> Result:
        result = evaluated(run, folder, "--allow-code", tasks=[CHOICES], limit=4, **section)
        assert result.exit_code == 0, result.output
        return result

    rows = json.loads((run / KEPT).read_text())["rows"]
    assert "reading its tasks" in again().stderr
    kept = (run / KEPT).read_bytes()
    assert "reading its tasks" not in again().stderr
    assert (run / KEPT).read_bytes() == kept
    (folder / "_default_template_yaml").write_text("# What task files include may have no suffix.\n")
    assert "reading its tasks" in again().stderr
    assert "reading its tasks" in again(num_fewshot=2).stderr
    found = json.loads((run / KEPT).read_text())
    assert found["lm_eval"]["scores"][0]["num_fewshot"] == 2
    assert found["rows"] == rows


@pytest.mark.usefixtures("own_tasks_only")
def test_scores_outlive_completions_of_the_same_adapter(run: Path, folder: Path) -> None:
    assert evaluated(run, folder, "--allow-code", tasks=[CHOICES], limit=4).exit_code == 0
    kept = json.loads((run / KEPT).read_text())["lm_eval"]
    assert kept is not None
    for words in (("--set", "eval.bootstrap_samples=101"), ("--fresh",)):
        assert pgrpo("eval", run, *words).exit_code == 0
        assert json.loads((run / KEPT).read_text())["lm_eval"] == kept, words
    # Asked for as well, they are not computed again, unless everything is.
    other = evaluated(run, folder, "--allow-code", "--set", "eval.temperature=0.5", tasks=[CHOICES], limit=4)
    assert other.exit_code == 0 and "reading its tasks" not in other.stderr
    fresh = evaluated(run, folder, "--allow-code", "--fresh", tasks=[CHOICES], limit=4)
    assert fresh.exit_code == 0 and "reading its tasks" in fresh.stderr


@pytest.mark.usefixtures("own_tasks_only")
def test_examples_and_the_chat_template_reach_the_model(run: Path, folder: Path) -> None:
    """Likelihoods are of other texts then; on a random model nothing else is sure."""
    values = []
    for section in ({}, {"num_fewshot": 2}, {"chat_template": True}):
        result = evaluated(run, folder, "--allow-code", "--json", tasks=[CHOICES], limit=None, **section)
        contrast = scores(result)[CHOICES, "acc"]["scores"]
        values.append((contrast["base"]["mean"], contrast["tuned"]["mean"]))
    assert values[1] != values[0] != values[2]


def test_files_of_the_recipes_own_need_permission(run: Path, folder: Path) -> None:
    before = (run / KEPT).read_bytes()
    result = evaluated(run, folder, tasks=[CHOICES])
    assert result.exit_code == 2
    assert "--allow-code" in result.stderr and str(folder) in result.stderr
    assert (run / KEPT).read_bytes() == before


def test_files_are_not_read_before_permission(
    run: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks_module, "_files_hash", lambda folder: pytest.fail(f"{folder} was read"))
    assert "--allow-code" in evaluated(run, folder, tasks=[CHOICES]).stderr


@pytest.mark.usefixtures("own_tasks_only")
def test_kept_scores_are_shown_without_permission(run: Path, folder: Path) -> None:
    assert evaluated(run, folder, "--allow-code", tasks=[CHOICES], limit=2).exit_code == 0
    (folder / "new.yaml").write_text("")
    result = evaluated(run, folder, tasks=[CHOICES], limit=2)
    assert result.exit_code == 0 and CHOICES in result.stdout
    assert f"--allow-code finds out whether {folder} has changed" in result.stderr


@pytest.mark.parametrize(
    ("limit", "most", "said"), [("_MOST_FILES", 3, "3 files"), ("_MOST_BYTES", 9, "0 MiB")]
)
def test_a_folder_of_much_else_is_refused(
    run: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, limit: str, most: int, said: str
) -> None:
    monkeypatch.setattr(tasks_module, limit, most)
    result = evaluated(run, folder, "--allow-code", tasks=[CHOICES])
    assert result.exit_code == 2
    assert f"{folder} holds more than {said}" in result.stderr


def test_the_root_of_the_disk_is_refused_at_once(run: Path) -> None:
    begun = time.monotonic()
    result = evaluated(run, Path("/"), "--allow-code", tasks=[CHOICES])
    assert (result.exit_code, "holds more than" in result.stderr) == (2, True), result.output
    assert time.monotonic() - begun < 60


@pytest.mark.usefixtures("own_tasks_only")
def test_a_path_is_no_name(run: Path, folder: Path, tmp_path: Path) -> None:
    """lm-eval itself would take the path, and run what the file names."""
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\ndef f(document): return ''\n")
    (tmp_path / "evil.yaml").write_text("task: evil\ndataset_path: json\ndoc_to_text: !function evil.f\n")
    result = evaluated(run, folder, "--allow-code", tasks=[CHOICES, str(tmp_path / "evil.yaml")])
    assert result.exit_code == 2
    assert "lm-eval has no task" in result.stderr and "evil.yaml" in result.stderr
    assert not (tmp_path / "ran").exists()


def test_an_unknown_name_gets_the_nearest_of_lm_evals_own(run: Path) -> None:
    result = evaluated(run, None, tasks=["helaswag"])
    assert result.exit_code == 2
    assert "did you mean 'hellaswag'?" in result.stderr


@pytest.mark.usefixtures("own_tasks_only")
def test_tasks_that_run_programs_of_the_model_are_refused_unread(run: Path, folder: Path) -> None:
    """Such a task may run something already where it is loaded."""
    with (folder / f"{COPIES}.yaml").open("a") as file:
        file.write("unsafe_code: true\n")
    (folder / "code.py").write_text("raise SystemExit('loaded')\n")
    result = evaluated(run, folder, "--allow-code", tasks=[GROUP])
    assert result.exit_code == 2
    assert COPIES in result.stderr and "program" in result.stderr


def test_a_metric_beside_the_recipe_is_not_run(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The package evaluate takes a script of that name from the current folder before any other."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "squad_v2").mkdir()
    (tmp_path / "squad_v2" / "squad_v2.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "asks.py").write_text("import evaluate\nmetric = evaluate.load('squad_v2')\n")
    (tmp_path / "own" / "asks.yaml").write_text(
        "task: asks\ndataset_path: json\ndoc_to_text: !function asks.metric\n"
    )
    defaults = partial(lm_eval.tasks.TaskManager, include_defaults=False)
    manager = lambda include_path: defaults(include_path=str(tmp_path / "own"))  # noqa: E731
    monkeypatch.setattr(lm_eval.tasks, "TaskManager", manager)
    result = evaluated(run, None, tasks=["asks"])
    assert result.exit_code == 2
    assert "wants the metric 'squad_v2'" in result.stderr and "--allow-code" in result.stderr
    assert not (tmp_path / "ran").exists()


@pytest.mark.usefixtures("own_tasks_only")
def test_a_sweep_is_done_when_its_tasks_are(run: Path, folder: Path) -> None:
    """Tasks come after an evaluation, so that there may be one without them."""
    section = {"tasks": [CHOICES], "include_path": str(folder), "limit": 2}

    def status(*words: str) -> str:
        recipe = load_recipe(run / "recipe.yaml", words)
        return PlannedRun(run, words, recipe).status(evaluated=True)

    with_tasks = f"eval.lm_eval={json.dumps(section)}"
    assert (status(), status(with_tasks)) == ("done", "trained")
    judge = {"base_url": "http://localhost:9/v1", "model": "small"}
    assert status(f"eval.judge={json.dumps(judge)}") == "trained"
    assert pgrpo("eval", run, "--set", with_tasks, "--allow-code", "--quiet").exit_code == 0
    assert status(with_tasks) == "done"


@pytest.mark.usefixtures("own_tasks_only")
def test_what_tasks_print_does_not_reach_standard_output(run: Path, folder: Path) -> None:
    code = "print('imported')\ndef answer(document):\n    print('asked')\n    return document['choices'][0]\n"
    (folder / "code.py").write_text(code)
    result = evaluated(run, folder, "--allow-code", "--json", "--quiet", tasks=[COPIES], limit=2)
    assert scores(result) and result.stderr == ""


@pytest.mark.usefixtures("own_tasks_only")
def test_out_of_memory_halves_the_batch(run: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = scores(evaluated(run, folder, "--allow-code", "--json", tasks=[CHOICES], limit=6))
    call = HFLM._model_call

    def small(self: Any, inps: Any, *rest: Any, **options: Any) -> Any:
        if len(inps) > 2:
            raise torch.OutOfMemoryError("made up")
        return call(self, inps, *rest, **options)

    monkeypatch.setattr(HFLM, "_model_call", small)
    result = evaluated(run, folder, "--allow-code", "--json", tasks=[CHOICES], limit=6, max_length=200)
    assert "lm-eval now computes 4 at a time" in result.stderr
    assert "lm-eval now computes 2 at a time" in result.stderr
    assert scores(result) == whole
    monkeypatch.setattr(HFLM, "_model_call", lambda *_: small(None, [0] * 3))
    result = evaluated(run, folder, "--allow-code", tasks=[CHOICES], limit=7)
    assert result.exit_code == 1
    assert "lm-eval failed: out of memory" in result.stderr and "max_length" in result.stderr


@pytest.mark.usefixtures("own_tasks_only")
def test_documents_that_are_missing_cost_no_sampling(run: Path, folder: Path) -> None:
    shutil.rmtree(run / "eval")
    (folder / "documents.json").unlink()
    result = evaluated(run, folder, "--allow-code", tasks=[CHOICES])
    assert result.exit_code == 1
    assert "lm-eval cannot load tiny_sums" in result.stderr and "Traceback" not in result.output
    assert not (run / KEPT).exists()


@pytest.mark.usefixtures("own_tasks_only")
def test_a_task_that_fails_leaves_the_evaluation(run: Path, folder: Path) -> None:
    shutil.rmtree(run / "eval")
    (run / "report.html").unlink()
    code = "def answer(document):\n    return {'0 + 0 =': 'a'}[document['question']]\n"
    (folder / "code.py").write_text(code)
    result = evaluated(run, folder, "--allow-code", tasks=[COPIES], limit=3)
    assert result.exit_code == 1
    assert "lm-eval failed: KeyError: '0 + 1 ='" in result.stderr and "Traceback" not in result.output
    found = json.loads((run / KEPT).read_text())
    assert found["lm_eval"] is None and found["rows"]
    assert "tuned - base" in (run / "report.html").read_text()


def test_without_the_package_the_remedy_is_named(
    run: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    result = evaluated(run, folder, "--allow-code", tasks=[CHOICES])
    assert result.exit_code == 2
    assert "pip install 'pgrpo-cli[lm-eval]'" in result.stderr
