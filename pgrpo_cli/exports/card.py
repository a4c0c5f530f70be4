"""The model card of an export. Names in it are strangers' text, and are written so that they mark nothing."""

from __future__ import annotations

import json
import re

from pgrpo_cli import __version__
from pgrpo_cli.recipe.messages import plain

from .job import Job, Written

_MARKS = re.compile(r"([\\`*_{}\[\]<>()#+!|~])")
_MOST = 200


def model_card(job: Job, written: Written, licence: str | None) -> str:
    """Markdown with the front matter that hubs read."""
    target, checked = job.target, written.checked
    recipe = target.recipe
    front = ["tags: [p-grpo, personalization]", f"base_model: {json.dumps(recipe.model.id)}"]
    if licence is not None:
        front.insert(0, f"license_name: {json.dumps(licence)}")
    library = {"adapter": "peft", "merged": "transformers"}.get(job.to)
    if library is not None:
        front.insert(0, f"library_name: {library}")
    said = f"`{md(licence)}`" if licence else "not known here; see where it came from"
    return "\n".join(
        [
            "---",
            *front,
            "---",
            "",
            f"# {md(recipe.name)}",
            "",
            f"`{md(recipe.model.id)}` fine-tuned by pgrpo {__version__} for {target.step} steps with the "
            f"advantage estimator `{md(str(recipe.advantage.estimator))}` (P-GRPO: arXiv 2603.10009): one "
            "model that serves several preference groups.",
            "",
            f"- Format: {job.to}, weights in {written.quantization}.",
            f"- {written.base}",
            f"- Licence of the base model: {said}.",
            f"- Compared with the run by {checked.by}, on {checked.prompts} held-out prompts: "
            f"{checked.greedy_equal} likeliest answers are the same; log-probabilities differ by "
            f"{checked.mean_abs_logprob_difference:.4f} nats a token on average.",
            "",
        ]
    )


def md(text: str) -> str:
    """Text on one line in which nothing is markup."""
    return _MARKS.sub(r"\\\1", plain(text, _MOST)) if not _in_code(text) else plain(text, _MOST)


def _in_code(text: str) -> bool:
    """Whether it may stand between backquotes as it is."""
    return not set("`\\") & set(text)
