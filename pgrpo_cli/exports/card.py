"""The model card of an export. Names in it are strangers' text, and are written so that they mark nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from pgrpo_cli import __version__
from pgrpo_cli.data.conditioning.presets import Preset
from pgrpo_cli.pretrained.location import LICENCES, locate
from pgrpo_cli.recipe.messages import plain

from .formats import Format
from .job import Job, Written

_MARKS = re.compile(r"([\\`*_{}\[\]<>()#+!|~])")
_MOST = 200
_SHOWN = 100
# Those that models often have, of the names that hubs know; others are "other" to them.
_LICENCES = (
    *("apache-2.0", "mit", "bsd-3-clause", "gpl-3.0", "agpl-3.0", "lgpl-3.0", "mpl-2.0", "unlicense"),
    *("cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0"),
    *("openrail", "bigscience-openrail-m", "bigcode-openrail-m", "gemma"),
    *("llama2", "llama3", "llama3.1", "llama3.2", "llama3.3"),
)


def model_card(job: Job, written: Written, licence: str | None, presets: Sequence[Preset]) -> str:
    """Markdown with the front matter that hubs read."""
    target, checked = job.target, written.checked
    recipe = target.recipe
    section = recipe.model
    on_hub = section.id != "random" and locate(section, target.recipe_dir).folder is None
    front = front_matter(job.to, licence, section.id if on_hub else None)
    said = code(licence) if licence else "not known here; see where it came from"
    return "\n".join(
        [
            "---",
            *front,
            "---",
            "",
            f"# {md(recipe.name)}",
            "",
            f"{code(recipe.model.id)} fine-tuned by pgrpo {__version__} for {target.step} steps with the "
            f"advantage estimator {code(str(recipe.advantage.estimator))} (P-GRPO: arXiv 2603.10009): one "
            "model that serves several preference groups.",
            "",
            f"- Format: {job.to}, weights in {written.quantization}.",
            f"- {written.base}",
            f"- Licence of the base model: {said}.",
            f"- Compared with the run by {checked.by}, on {checked.prompts} held-out prompts: "
            f"{checked.greedy_equal} likeliest answers are the same; log-probabilities differ by "
            f"{checked.mean_abs_logprob_difference:.4f} nats per token on average.",
            "",
            "The model is told who asks by what stands before the question. `presets.json` has these "
            "messages for each preference group:",
            "",
            *(f"- {md(str(preset.preference_group))}: {md(_first(preset))}" for preset in presets[:_SHOWN]),
            *([f"- and {len(presets) - _SHOWN} more"] if presets[_SHOWN:] else []),
            "",
        ]
    )


def front_matter(to: Format, licence: str | None, base_model: str | None) -> list[str]:
    """What hubs read. `licence`: its name, or that of its file; `base_model`: one of the hub."""
    front = ["tags: [p-grpo, personalization]"]
    library = {"adapter": "peft", "merged": "transformers"}.get(to)
    if library is not None:
        front.append(f"library_name: {library}")
    if base_model is not None:
        front.append(f"base_model: {json.dumps(base_model)}")
    if licence in _LICENCES:
        front.append(f"license: {licence}")
    elif licence in LICENCES:
        front += ["license: other", "license_name: license-of-the-base-model", f"license_link: {licence}"]
    elif licence is not None:
        front += ["license: other", f"license_name: {json.dumps(licence)}"]
    return front


def _first(preset: Preset) -> str:
    """How the preset begins."""
    if not preset.messages:
        return "nothing stands before the question"
    first = preset.messages[0]
    return f"{first['role']}: {first['content']}"


def md(text: str) -> str:
    """Text on one line in which nothing is markup."""
    return _MARKS.sub(r"\\\1", plain(text, _MOST))


def code(text: str) -> str:
    """Text on one line between backquotes."""
    return f"`{plain(text, _MOST).replace('`', chr(39))}`"
