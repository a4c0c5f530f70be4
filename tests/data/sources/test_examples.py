"""The example recipes read rows of the shape that their headers show."""

import json
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pgrpo_cli.data.conditioning.system_message import with_system_messages
from pgrpo_cli.data.sources import SOURCES
from pgrpo_cli.data.sources.context import ReadContext
from pgrpo_cli.recipe.load import load_recipe

EXAMPLES = Path(__file__).parents[3] / "recipes" / "examples"


def read(name, folder, *overrides):
    source = load_recipe(EXAMPLES / f"{name}.yaml", overrides).data.source
    return SOURCES[source.type](source, ReadContext(folder))


def test_own_jsonl(tmp_path):
    header = (EXAMPLES / "own-jsonl.yaml").read_text().splitlines()
    (row,) = [line.partition("Data:")[2].strip() for line in header if line.startswith("# Data:")]
    (tmp_path / "questions-1.jsonl").write_text(row)
    data = read("own-jsonl", tmp_path)
    (record,) = data.train
    assert (record.preference_group, record.user_id) == ("sales", "u7")
    assert record.time == 1769851800.0  # 2026-01-31 09:30 UTC
    assert record.columns["reference"] == json.loads(row)["good_answer"]


def test_own_csv(tmp_path):
    (tmp_path / "customers.csv").write_text("name;segment;bought;stars\nAnn;old;a drum;4\nBo;new;a fife;\n")
    data = read("own-csv", tmp_path)
    assert [record.messages[0]["content"] for record in data.train] == [
        "I bought a drum and gave it 4 of 5 stars.\nWhat should I buy next?",
        "I bought a fife.\nWhat should I buy next?",
    ]
    assert not data.rejected
    template = load_recipe(EXAMPLES / "own-csv.yaml").data.conditioning.template
    told = with_system_messages(data.train, template, None)
    assert [record.messages[0] for record in told] == [
        {"role": "system", "content": "You advise Ann."},
        {"role": "system", "content": "You advise Bo."},
    ]


def test_own_parquet(tmp_path):
    (tmp_path / "chats").mkdir()
    for name, question in (("train-0", "Why?"), ("test-0", "How?")):
        chat = [{"role": "user", "content": question}, {"role": "assistant", "content": "So."}]
        table = pa.table({"messages": [chat], "preference_group": ["a"]})
        pq.write_table(table, tmp_path / "chats" / f"{name}.parquet")
    data = read("own-parquet", tmp_path)
    assert [record.messages[0]["content"] for record in (*data.train, *data.eval)] == ["Why?", "How?"]
    assert data.train[0].columns == {"reference": "So."}


def test_hub_dataset(tmp_path):
    row = {"instruction": "Sum up.", "context": "", "response": "Done.", "category": "summarization"}
    datasets.Dataset.from_list([row]).save_to_disk(tmp_path / "saved")
    (record,) = read("hub-dataset", tmp_path, "data.source.path=saved").train
    assert record.messages == ({"role": "user", "content": "Sum up."},)
    assert record.preference_group == "summarization"
    assert record.columns["reference"] == "Done."


@pytest.mark.parametrize("name", ["prism", "personalllm", "ultrafeedback", "helpsteer2"])
def test_presets_are_examples_too(name):
    assert load_recipe(EXAMPLES / f"{name}.yaml").data.source.type == name
