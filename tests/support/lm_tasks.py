"""Tasks of lm-eval over documents on disk: what a user's `eval.lm_eval.include_path` holds."""

from __future__ import annotations

import json
from pathlib import Path

DOCUMENTS = 24
GROUP = "tiny_group"
CHOICES, COPIES, PERPLEXITY = "tiny_sums", "tiny_copies", "tiny_perplexity"

_HEAD = """\
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {data}, cache_dir: {cache}}}
test_split: train
fewshot_split: train
metadata: {{version: 1.0}}
"""
_CHOICES = """\
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_target: "{{gold}}"
doc_to_choice: "{{choices}}"
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""
_COPIES = """\
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: !function code.answer
generation_kwargs: {until: ["\\n"], max_gen_toks: 4}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""
_PERPLEXITY = """\
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{question}}"
metric_list: [{metric: byte_perplexity, aggregation: weighted_perplexity, higher_is_better: false}]
"""
_GROUP = """\
group: {name}
task: [{parts}]
aggregate_metric_list: [{{metric: acc, weight_by_size: true}}]
"""


def task_folder(folder: Path) -> Path:
    """A folder with a task of every kind that lm-eval asks a model, and a group of the first two."""
    folder.mkdir(parents=True)
    data = folder / "documents.json"
    lines = [
        {"question": f"{a} + {b} =", "choices": [str(a + b), str(a + b + 1), "seven"], "gold": 0}
        for a in range(6)
        for b in range(4)
    ]
    data.write_text("\n".join(map(json.dumps, lines)))
    for name, text in ((CHOICES, _CHOICES), (COPIES, _COPIES), (PERPLEXITY, _PERPLEXITY)):
        head = _HEAD.format(name=name, data=data, cache=folder.with_name("cache"))
        (folder / f"{name}.yaml").write_text(head + text)
    (folder / "group.yaml").write_text(_GROUP.format(name=GROUP, parts=f"{CHOICES}, {COPIES}"))
    (folder / "code.py").write_text("def answer(document):\n    return document['choices'][0]\n")
    return folder
