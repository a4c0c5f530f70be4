"""UltraFeedback, HelpSteer2 and PersonalLLM, from rows of exactly their published shape."""

import gzip
import json
import tempfile
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgrpo_cli.data.sources import SOURCES
from pgrpo_cli.data.sources.context import ReadContext
from pgrpo_cli.data.sources.presets.rated import rating_of
from pgrpo_cli.errors import DataError
from pgrpo_cli.recipe.public_sets import (
    HelpSteer2Source,
    PersonalLLMSource,
    UltraFeedbackSource,
)


def read(folder, section):
    return SOURCES[section.type](section, ReadContext(folder))


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)


def told(records):
    return [
        (r.preference_group, r.messages[-1]["content"], r.columns["reference"], r.columns["reference_score"])
        for r in records
    ]


def completion(response, instruction_following, honesty, truthfulness, helpfulness):
    return {
        "model": "gpt-4",
        "principle": "helpfulness",
        "custom_system_prompt": "As an AI assistant, be accurate.",
        "response": response,
        "annotations": {
            "instruction_following": {"Rating": instruction_following, "Rationale": "..."},
            "honesty": {"Rating": honesty, "Rationale": "..."},
            "truthfulness": {
                "Type": ["1", "2"],
                "Rationale": "...",
                "Rating": truthfulness,
                "Rationale For Rating": "...",
            },
            "helpfulness": {
                "Type": "None",
                "Rationale": "...",
                "Rating": helpfulness,
                "Rationale For Rating": "...",
            },
        },
        "overall_score": 6.5,
        "critique": "...",
        "fine-grained_score": 3.75,
    }


def ultrafeedback(instruction="What to do in Cairo?", completions=None):
    return {
        "source": "sharegpt",
        "instruction": instruction,
        "models": ["falcon-40b-instruct", "gpt-4"],
        "completions": completions
        or [completion("Swim.", "2", "N/A", "3", "3"), completion("Pyramids.", "5", "N/A", "3", "4")],
        "correct_answers": ["None"],
        "incorrect_answers": ["None"],
    }


def test_ultrafeedback_has_a_record_an_aspect(tmp_path):
    write(tmp_path / "set" / "sharegpt.jsonl", [ultrafeedback()])
    write(tmp_path / "set" / "flan.jsonl", [ultrafeedback("2 + 2?")])
    data = read(tmp_path, UltraFeedbackSource(path="set"))
    assert told(data.train)[3:] == [
        ("instruction_following", "What to do in Cairo?", "Pyramids.", 5.0),
        # Rated alike: the first.
        ("truthfulness", "What to do in Cairo?", "Swim.", 3.0),
        ("helpfulness", "What to do in Cairo?", "Pyramids.", 4.0),
    ]
    assert data.train[0].columns["source"] == "sharegpt"
    assert data.train[0].columns["scores"] == [2.0, 5.0]
    # No answer is rated for honesty.
    assert [(row.reason, row.preference_group, row.where) for row in data.rejected] == [
        ("no rated answer", "honesty", "set/flan.jsonl:1"),
        ("no rated answer", "honesty", "set/sharegpt.jsonl:1"),
    ]
    assert all(row.left_out for row in data.rejected)
    assert data.rows == {"set/flan.jsonl": 1, "set/sharegpt.jsonl": 1}
    assert data.eval is None


def test_what_else_a_folder_of_the_hub_holds_is_no_data(tmp_path):
    write(tmp_path / "set" / "sharegpt.jsonl", [ultrafeedback()])
    write(tmp_path / "steps" / "data" / "train-0.jsonl.gz", HELPSTEER2)
    for name in ("set/README.md", "set/.hidden.jsonl", "steps/dataset_infos.json", "steps/data/train.txt"):
        (tmp_path / name).write_text("# UltraFeedback")
    assert read(tmp_path, UltraFeedbackSource(path="set")).rows == {"set/sharegpt.jsonl": 1}
    data = read(tmp_path, HelpSteer2Source(path="steps", eval_split=None))
    assert data.rows == {"steps/data/train-0.jsonl.gz": len(HELPSTEER2)}
    # A file that is named is not passed over.
    with pytest.raises(DataError, match=r"README\.md is of no format"):
        read(tmp_path, UltraFeedbackSource(path="set/*.md"))


def test_ultrafeedback_rows_that_are_none(tmp_path):
    broken = [
        ultrafeedback(instruction=" "),
        ultrafeedback(instruction=None),
        ultrafeedback() | {"completions": "none"},
        ultrafeedback() | {"completions": [{"response": "x"}]},
        ultrafeedback() | {"completions": [{"response": 5, "annotations": {"helpfulness": {"Rating": "3"}}}]},
        [1],
    ]
    write(tmp_path / "rows.jsonl", broken)
    data = read(tmp_path, UltraFeedbackSource(path="rows.jsonl", preference_groups=["helpfulness"]))
    assert data.train == ()
    assert [(row.line, row.reason) for row in data.rejected] == [
        (1, "empty prompt"),
        (2, "no prompt"),
        (3, "no answers"),
        (4, "no rated answer"),
        (5, "no rated answer"),
        (6, "not a JSON object"),
    ]


def test_the_chosen_preference_groups_only(tmp_path):
    write(tmp_path / "rows.jsonl", [ultrafeedback()])
    section = UltraFeedbackSource(path="rows.jsonl", preference_groups=["helpfulness", "truthfulness"])
    assert [record.preference_group for record in read(tmp_path, section).train] == [
        "helpfulness",
        "truthfulness",
    ]


def helpsteer2(prompt, response, *ratings):
    names = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
    return {"prompt": prompt, "response": response, **dict(zip(names, ratings, strict=True))}


TURNS = "Hi\n<extra_id_1>Assistant\nHello. What\nnow?\n<extra_id_1>User\nA poem."
HELPSTEER2 = [
    helpsteer2("c#", "A language.", 3, 4, 4, 2, 1),
    helpsteer2("c#", "A note, half a tone above c.", 1, 4, 3, 1, 2),
    helpsteer2(TURNS, "Roses", 4, 4, 4, 0, 0),
    helpsteer2(TURNS, "Violets", 2, 2, 4, 1, 3),
]


def test_helpsteer2_compares_consecutive_answers_to_a_prompt(tmp_path):
    write(tmp_path / "set" / "train.jsonl.gz", HELPSTEER2)
    write(tmp_path / "set" / "validation.jsonl.gz", [helpsteer2("C#", "x", 1, 1, 1, 1, 1), *HELPSTEER2[2:]])
    write(tmp_path / "set" / "preference" / "preference.jsonl.gz", [{"prompt": "other"}])
    data = read(tmp_path, HelpSteer2Source(path="set", eval_split=None))
    assert told(data.train)[:5] == [
        ("helpfulness", "c#", "A language.", 3.0),
        ("correctness", "c#", "A language.", 4.0),
        ("coherence", "c#", "A language.", 4.0),
        ("complexity", "c#", "A language.", 2.0),
        ("verbosity", "c#", "A note, half a tone above c.", 2.0),
    ]
    assert len(data.train) == 10
    assert data.train[5].messages == (
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello. What\nnow?"},
        {"role": "user", "content": "A poem."},
    )
    assert data.train[9].columns == {"reference": "Violets", "reference_score": 3.0, "scores": [0.0, 3.0]}
    assert data.train[9].line == 3
    assert not data.rejected
    split = read(tmp_path, HelpSteer2Source(path="set"))
    # Both prompts are held out.
    assert len(split.eval) == 10
    assert split.train == ()
    assert [file.name for file in split.files] == ["set/train.jsonl.gz", "set/validation.jsonl.gz"]


def test_helpsteer2_loses_broken_rows_only(tmp_path):
    rows = [
        helpsteer2("Hi", "one", 1, 1, 1, 1, 1),
        helpsteer2("Hi", None, 4, 4, 4, 4, 4),
        helpsteer2("Hi", "three", 2, None, "x", True, 1),
        helpsteer2("Hi\n<extra_id_1>Assistant\nHo", "four", 1, 1, 1, 1, 1),
        helpsteer2(None, "five", 1, 1, 1, 1, 1),
    ]
    write(tmp_path / "rows.jsonl", rows)
    data = read(tmp_path, HelpSteer2Source(path="rows.jsonl"))
    assert [record.columns["reference"] for record in data.train] == ["three", "one", "one", "one", "one"]
    assert [record.columns["scores"] for record in data.train][:2] == [[1.0, 2.0], [1.0, None]]
    assert [(row.line, row.reason) for row in data.rejected] == [
        (2, "no answer"),
        (4, "messages do not end with the user's"),
        (5, "no prompt"),
    ]


MODELS = [
    *("gemma_2b", "gemma_7b", "mistral_raft", "mistral_ray", "mistral_weqweasdas"),
    *("llama3_sfairx", "oasst_deberta_v3", "beaver_7b", "oasst_pythia_7b", "oasst_pythia_1b"),
]


def personalllm(prompt):
    row = {"prompt_id": 3, "prompt": prompt, "subset": "hh_rlhf"}
    for answer in range(1, 9):
        row |= {f"response_{answer}": f"answer {answer}", f"response_{answer}_model": "openai/gpt-4-turbo"}
        # Model number m likes answer (m mod 8) + 1 best.
        row |= {f"response_{answer}_{name}": -float((answer - 1 - m) % 8) for m, name in enumerate(MODELS)}
    return row


def test_personalllm_has_a_record_a_reward_model(tmp_path):
    (tmp_path / "set" / "data").mkdir(parents=True)
    for split, prompt in (("train", "Why?"), ("test", "How?")):
        table = pa.Table.from_pylist([personalllm(prompt)])
        pq.write_table(table, tmp_path / "set" / "data" / f"{split}-00000-of-00001.parquet")
    data = read(tmp_path, PersonalLLMSource(path="set"))
    assert told(data.train) == [(name, "Why?", f"answer {m % 8 + 1}", 0.0) for m, name in enumerate(MODELS)]
    assert data.train[1].columns["scores"] == [-7.0, 0.0, -1.0, -2.0, -3.0, -4.0, -5.0, -6.0]
    assert data.train[1].columns["subset"] == "hh_rlhf"
    assert {record.messages[0]["content"] for record in data.eval} == {"How?"}


def test_personalllm_without_answers_or_scores(tmp_path):
    row = personalllm("Hi") | {f"response_{answer}_gemma_2b": None for answer in range(1, 9)}
    write(tmp_path / "rows.jsonl", [row, {"prompt": "Hi"}])
    data = read(tmp_path, PersonalLLMSource(path="rows.jsonl", preference_groups=["gemma_2b", "gemma_7b"]))
    assert told(data.train) == [("gemma_7b", "Hi", "answer 2", 0.0)]
    assert [row.reason for row in data.rejected] == ["no rated answer", "no answers"]


def test_a_saved_set_is_read_by_its_splits(tmp_path):
    splits = {"train": HELPSTEER2[:2], "validation": HELPSTEER2[2:]}
    saved = datasets.DatasetDict({name: datasets.Dataset.from_list(rows) for name, rows in splits.items()})
    saved.save_to_disk(tmp_path / "set")
    data = read(tmp_path, HelpSteer2Source(path="set"))
    assert (len(data.train), len(data.eval)) == (5, 5)


def test_held_out_files_and_a_limit(tmp_path):
    write(tmp_path / "a.jsonl", [ultrafeedback("one"), ultrafeedback("two"), ultrafeedback("three")])
    write(tmp_path / "b.jsonl", [ultrafeedback("TWO")])
    section = UltraFeedbackSource(path="a.jsonl", eval_path="b.jsonl", limit=2)
    data = read(tmp_path, section)
    assert {record.messages[0]["content"] for record in data.train} == {"one"}
    assert {record.messages[0]["content"] for record in data.eval} == {"TWO"}


def test_a_set_may_be_an_array(tmp_path):
    (tmp_path / "rows.json").write_text(json.dumps([ultrafeedback("one"), ultrafeedback("two")]))
    data = read(tmp_path, UltraFeedbackSource(path="rows.json"))
    assert {record.messages[0]["content"] for record in data.train} == {"one", "two"}
    assert data.notes == (
        "rows.json is an array or indented JSON, no JSON lines: each of its objects is a row.",
    )


@pytest.mark.parametrize(
    "section", [UltraFeedbackSource(), HelpSteer2Source(), PersonalLLMSource(streaming=True)]
)
def test_without_a_path_the_hub_is_asked(tmp_path, monkeypatch, section):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    names = {
        "ultrafeedback": "openbmb/UltraFeedback",
        "helpsteer2": "nvidia/HelpSteer2",
        "personalllm": "namkoong-lab/PersonalLLM",
    }
    with pytest.raises(DataError, match=f"data set '{names[section.type]}:train' cannot be read"):
        read(tmp_path, section)


def test_files_that_are_no_set(tmp_path):
    (tmp_path / "set").mkdir()
    with pytest.raises(DataError, match="holds no file of the split 'train'"):
        read(tmp_path, HelpSteer2Source(path="set"))
    write(tmp_path / "set" / "train.jsonl", HELPSTEER2)
    with pytest.raises(DataError, match="holds no file of the split 'validation'"):
        read(tmp_path, HelpSteer2Source(path="set"))
    write(tmp_path / "rows.txt", HELPSTEER2)
    with pytest.raises(DataError, match="of no format that a set is published in"):
        read(tmp_path, HelpSteer2Source(path="rows.txt"))


@pytest.mark.parametrize(
    ("value", "rating"),
    [
        ("3", 3.0),
        (4, 4.0),
        (-1.5, -1.5),
        ("N/A", None),
        (None, None),
        (True, None),
        ("inf", None),
        ([3], None),
    ],
)
def test_ratings(value, rating):
    assert rating_of(value) == rating


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4) | st.sampled_from(["3", "N/A", "Hi"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["response", "annotations", "helpfulness", "Rating", "content", "role", "x"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)
columns = st.sampled_from(
    ["prompt", "instruction", "completions", "response", "helpfulness", "response_1", "response_1_gemma_2b"]
)


@given(
    st.lists(st.dictionaries(columns, junk, max_size=5), min_size=1, max_size=4),
    st.sampled_from([UltraFeedbackSource, HelpSteer2Source, PersonalLLMSource]),
)
def test_every_row_is_records_or_rejected(rows, kind):
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / "rows.jsonl", rows)
        data = read(Path(folder), kind(path="rows.jsonl"))
    assert {record.line for record in data.train} | {row.line for row in data.rejected} <= set(range(1, 5))
    assert data.train or data.rejected
    assert all(record.columns["reference"].strip() for record in data.train)
