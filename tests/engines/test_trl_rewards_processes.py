"""Rewards in two processes: each completion is scored once, and all stop where one fails. Also Accelerate."""

from __future__ import annotations

import json
import time
from statistics import mean

import pytest

from tests.support.judge import Answer, by_length, judge_server
from tests.support.training import TINY, metrics, steps_in, tables, trained, write_tiny
from tests.support.trl_processes import SAFE, assert_whole, launched, torchrun, train_words

pytestmark = pytest.mark.slow
G, P, STEPS = 4, 2, 6
"""Each of two processes has the completions of one prompt of a step."""


def judged(folder, judge, **sections):
    """A recipe with a judge beside a built-in reward, and two prompts a step."""
    reward = {"type": "judge", "base_url": judge.url, "model": "small", "backoff_s": 0.001, "retries": 0}
    rewards = [{"type": "length", "unit": "characters", "max": 6, "weight": 0.5}, reward]
    train = {**TINY["train"], "steps": STEPS, "prompts_per_step": P}
    return write_tiny(folder, rewards=rewards, **{"train": train, **sections})


def used(run, name):
    """What the judge has counted, of both processes, in all steps."""
    return sum(line["usage"]["judge"][name] for line in metrics(run))


def rows_of(run):
    """Step, place of the prompt in it, prompt and text of all completions."""
    return [(row[0], row[1], row[3], row[9]) for row in tables(run / "history.sqlite")["completions"]]


def test_each_completion_is_judged_once_and_the_answers_of_both_processes_are_kept(tmp_path):

    def slowly(asked):
        return Answer(by_length(asked), after=lambda: time.sleep(0.05))

    with judge_server(slowly) as judge:
        recipe, run = judged(tmp_path, judge), tmp_path / "run"
        done = torchrun(2, *train_words(recipe, run), env=SAFE)
        assert done.returncode == 0, done.stderr
        questions = [json.dumps(asked.body, sort_keys=True) for asked in judge.asked]
        assert_whole(run, steps=STEPS, completions=P * G)
        # Of 48 completions few are alike; those of one prompt are in one process, which asks once.
        assert len(questions) == len(set(questions)) == used(run, "calls") > 40
        assert used(run, "calls") + used(run, "cached") == STEPS * P * G
        assert judge.most_in_flight > 1

        # A run that draws the same completions finds the answers of both processes in the file.
        again = tmp_path / "again"
        again.mkdir()
        (again / "judge.sqlite").write_bytes((run / "judge.sqlite").read_bytes())
        done = torchrun(2, *train_words(recipe, again), env=SAFE)
        assert done.returncode == 0, done.stderr
        assert rows_of(again) == rows_of(run)
        assert len(judge.asked) == len(questions)
        assert (used(again, "calls"), used(again, "cached")) == (0, STEPS * P * G)


def test_what_one_process_has_asked_the_other_does_not_ask_again(tmp_path):
    """Every prompt has one answer, by greedy sampling and a model that hardly moves, in whichever process."""
    steps = 24
    with judge_server(by_length) as judge:
        recipe = judged(
            tmp_path,
            judge,
            rollout={"num_generations": G, "max_completion_tokens": 8, "temperature": 0.001},
            train={**TINY["train"], "steps": steps, "prompts_per_step": P, "learning_rate": 1e-12},
        )
        run = tmp_path / "run"
        done = torchrun(2, *train_words(recipe, run), env=SAFE)
        assert done.returncode == 0, done.stderr
        processes = {}
        for _, process, prompt, text in rows_of(run):
            processes.setdefault((prompt, text), set()).add(process)
        # Prompts that each of the two processes has had; the judge was asked about them once.
        assert sum(len(ranks) == 2 for ranks in processes.values()) > 3
        assert len(judge.asked) == used(run, "calls") == len(processes)
        assert used(run, "cached") == steps * P * G - len(processes)


FAILS = """
import os
from pathlib import Path

steps = 0

def reward(completions, **_):
    global steps
    steps += 1
    if steps == 4 and os.environ["RANK"] == "1" and Path(__file__).with_name("down").exists():
        raise ValueError("down")
    return [len(completion) for completion in completions]
"""


def test_a_reward_that_fails_in_one_process_stops_all_and_the_last_finished_step_is_saved(tmp_path):
    (tmp_path / "reward.py").write_text(FAILS)
    recipe = write_tiny(tmp_path, rewards=[{"type": "python", "file": "reward.py", "function": "reward"}])
    runs = whole, run = tmp_path / "whole", tmp_path / "run"
    for path in runs:
        done = torchrun(2, *train_words(recipe, path, "--allow-code"), env=SAFE)
        if path == whole:
            assert done.returncode == 0, done.stderr
            (tmp_path / "down").touch()
    assert done.returncode != 0
    # The first process says it, although it happened in the other.
    assert done.stderr.count("raised ValueError: down") == 1
    assert steps_in(run) == ["step-000002", "step-000003"]
    (tmp_path / "down").unlink()
    done = torchrun(2, *train_words(recipe, run, "--allow-code"), env=SAFE)
    assert done.returncode == 0 and done.stdout.startswith("resumed from step 3\n"), done.stderr
    assert metrics(run) == metrics(whole)
    assert tables(run / "history.sqlite") == tables(whole / "history.sqlite")


LETTERS = """
def share(completions, **_):
    return [sum("a" <= c <= "z" for c in text) / max(1, len(text)) for text in completions]
"""


def test_two_processes_learn_as_one_process_and_the_native_engine_do(tmp_path):
    """A tenth of the characters of a random model are small letters; 40 steps make it a third or half."""
    (tmp_path / "letters.py").write_text(LETTERS)
    recipe = write_tiny(
        tmp_path,
        # The output layer is not trained: with a smaller model its logits would hardly differ.
        model={**TINY["model"], "random": {"hidden_size": 256, "num_layers": 2, "num_heads": 4}},
        adapter={"r": 8, "alpha": 32},
        rewards=[{"type": "python", "file": "letters.py", "function": "share"}],
        rollout={"num_generations": 8, "max_completion_tokens": 12},
        train={
            "steps": 40, "prompts_per_step": 8, "learning_rate": 1e-2, "schedule": "constant",
            "warmup_steps": 1, "save_every": 20,
        },
    )  # fmt: skip
    two, one, native = runs = [tmp_path / name for name in ("two", "one", "native")]
    done = torchrun(2, *train_words(recipe, two, "--allow-code"), env=SAFE)
    assert done.returncode == 0, done.stderr
    trained(recipe, one, "--allow-code", "--set", "engine.type=trl")
    trained(recipe, native, "--allow-code")
    for run in runs:
        rewards = [line["reward_mean"] for line in metrics(run)]
        # In the last ten steps 0.32 to 0.55, over five seeds of each; what is learnt when is chance.
        assert mean(rewards[:4]) < 0.15 and mean(rewards[-10:]) > 0.25, run.name


def test_accelerate_launches_as_many_processes_as_it_is_told(tmp_path):
    recipe, run = write_tiny(tmp_path), tmp_path / "run"
    launcher = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", 2]
    done = launched(*launcher, "-m", *train_words(recipe, run), env=SAFE)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("Engine: TRL, 2 processes.") == 1
    assert_whole(run, steps=6, completions=12)
