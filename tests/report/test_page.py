"""The page: whole, self-contained, escaped, the same every time."""

from __future__ import annotations

import base64
import hashlib
import math
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from pgrpo_cli.diagnosis.finding import Diagnosis, Finding
from pgrpo_cli.report.page import MOST_PANELS, comparison_page, eval_page
from pgrpo_cli.stats.learning import TrainingRecord
from pgrpo_cli.stats.result_types import CurvePoint, EvalResult
from pgrpo_cli.verbs.compare import Entrant, compare_evaluations
from tests.support.results import result_of, rows_of, spread

EVIL = '<script>alert("1")</script> & <img src=x onerror=alert(2)>'
BASE = spread({"calm": 0.1, EVIL: 0.2})
TUNED = spread({"calm": 0.3, EVIL: 0.1})
POINTS: list[CurvePoint] = [(1, "calm", 0.1, 8), (2, "calm", 0.3, 8), (2, EVIL, 0.2, 4)]

VOID = {"meta", "link", "br", "img"}


class Page(HTMLParser):
    """Checks that tags nest, and collects them with their attributes and the text between them."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(source)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def made(tuned: Any = TUNED, **changes: Any) -> EvalResult:
    result = result_of(BASE, tuned, **changes)
    rows = rows_of("base", BASE, text=EVIL) + rows_of("tuned", tuned, text="{which} {index} to {prompt}")
    return result.model_copy(update={"rows": rows})


def a_comparison(label: str = "other") -> str:
    first, second = made(), made(BASE, run=label, recipe={"seed": 7, "advantage": {"estimator": EVIL}})
    progress = {"demo": TrainingRecord(POINTS), label: TrainingRecord(POINTS[:1])}
    comparison = compare_evaluations([Entrant("demo", first), Entrant(label, second)], records=progress)
    return comparison_page(comparison, {"demo": first, label: second}, progress)


PAGES = {"eval": lambda: eval_page(made(), POINTS), "compare": a_comparison}


def test_the_matrix_and_the_held_out_curve_are_drawn_where_there_are_some() -> None:
    page = Page(eval_page(made(), POINTS, held_out=[(0, "calm", 0.1, 8), (5, "calm", 0.4, 8)]))
    assert "Whose taste do completions meet?" in page.text and "Held-out reward during training" in page.text
    assert sum("heat" in str(rect.get("class")) for rect in page.all("rect")) == 2 * 2 * 2
    assert "from 0.1 to 0.4" in str(page.all("svg"))
    plain = Page(eval_page(made().model_copy(update={"matrix": None}), POINTS))
    assert "Whose taste" not in plain.text and "Held-out reward" not in plain.text


@pytest.mark.parametrize(
    ("low", "says"),
    [
        (-0.1, "not shown to serve preference groups differently"),
        (0.1, "The tuned model serves preference groups differently"),
        (math.nan, "cannot be told from so few held-out prompts"),
    ],
)
def test_the_matrix_says_whether_everyone_is_served_alike(low: float, says: str) -> None:
    result = made()
    assert result.matrix is not None
    margin = result.matrix.margin
    tuned = margin.tuned.model_copy(update={"mean": 0.2, "ci_low": low, "ci_high": 0.3})
    matrix = result.matrix.model_copy(update={"margin": margin.model_copy(update={"tuned": tuned})})
    page = Page(eval_page(result.model_copy(update={"matrix": matrix}), POINTS))
    assert says in page.text and ("data.conditioning" in page.text) == (low < 0)


def test_a_comparison_shows_matrices_side_by_side_if_every_run_has_one() -> None:
    first, second = made(), made(BASE, run="other")
    progress = {"demo": TrainingRecord(POINTS), "other": TrainingRecord(POINTS)}
    comparison = compare_evaluations([Entrant("demo", first), Entrant("other", second)])
    both = Page(comparison_page(comparison, {"demo": first, "other": second}, progress))
    assert "Whose taste do completions meet?" in both.text
    assert sum("heat" in str(rect.get("class")) for rect in both.all("rect")) == 3 * 2 * 2
    second = second.model_copy(update={"matrix": None})
    one = Page(comparison_page(comparison, {"demo": first, "other": second}, progress))
    assert "Whose taste" not in one.text


def test_a_run_called_base_is_told_from_the_base_model() -> None:
    source = a_comparison("base")
    assert {"base model", "demo, tuned", "base, tuned"} == set(re.findall(r"<h4>(.*?) · reward", source))
    maps = re.findall(r'<figcaption>([^<]*)</figcaption><svg[^>]*aria-label="[^"]*diagonal', source)
    assert maps == ["base model", "demo, tuned", "base, tuned"]


@pytest.mark.parametrize("kind", PAGES)
def test_the_page_needs_nothing_else(kind: str) -> None:
    source = PAGES[kind]()
    page = Page(source)
    assert page.all("img") == []
    assert [link["href"] for link in page.all("link")] == ["data:,"]
    assert not re.search(r"url\(|@import|https?:", source)
    policy = next(meta for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    (script,) = re.findall(r"<script>(.*?)</script>", source, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert str(policy["content"]).startswith(f"default-src 'none'; script-src 'sha256-{digest}'; style-src ")
    assert any(meta.get("name") == "viewport" for meta in page.all("meta"))


@pytest.mark.parametrize("kind", PAGES)
def test_names_and_completions_are_text(kind: str) -> None:
    source = PAGES[kind]()
    assert source.count("<script>") == 1 and "<script>alert" not in source and "<img" not in source
    assert EVIL in Page(source).text
    # An override of the direction of text ends with the cell, line or label that holds it.
    isolated = re.search(r"([^}]*)\{ unicode-bidi: isolate; \}", source)
    assert isolated and {"th", "td", "li", "p", "text"} <= set(re.findall(r"\w+", isolated[1]))


@pytest.mark.parametrize("kind", PAGES)
def test_every_plot_has_a_text_alternative(kind: str) -> None:
    page = Page(PAGES[kind]())
    plots = page.all("svg")
    # One forest plot and three panels: the macro mean and two preference groups. An evaluation has two maps,
    # a comparison of two runs three: the base model and both.
    assert len(plots) == 4 + (2 if kind == "eval" else 3)
    for plot in plots:
        assert plot["role"] == "img" and len(str(plot["aria-label"])) > 20


@pytest.mark.parametrize("kind", PAGES)
def test_equal_findings_make_equal_pages(kind: str) -> None:
    assert PAGES[kind]() == PAGES[kind]()


def test_an_evaluation_shows_numbers_samples_and_provenance() -> None:
    page = Page(eval_page(made(), POINTS))
    assert "0.100 before training" not in page.text
    # Macro: (0.1 + 0.2) / 2 and (0.3 + 0.1) / 2.
    assert "each counted once: 0.150 before training, 0.200 after (+0.050" in page.text
    # The first completion to the first two of six prompts, of both models.
    assert "tuned 0 to calm-0" in page.text and "tuned 0 to calm-1" in page.text
    assert "calm-2" not in page.text and "tuned 1 to" not in page.text
    assert "base · reward" in page.text
    for expected in ("a" * 64, "b" * 64, "d" * 64, "pgrpo-cli 0.1.0", "seed 7", "estimator: pgrpo"):
        assert expected in page.text


def test_notes_are_shown() -> None:
    one_prompt = {"calm": {"a": [0.2, 0.4]}}
    result = result_of(one_prompt, one_prompt)
    assert "a single held-out prompt gives no interval" in Page(eval_page(result, [])).text


def test_findings_of_training_are_shown_with_what_was_checked() -> None:
    found = Finding("no-spread", EVIL, "problem", f"All rewards of {EVIL!r} are 0.", "Change this.", {})
    diagnosis = Diagnosis((found,), ("Do they vary?",), {"Does it move?": "the KL is not recorded"})
    page = Page(eval_page(made(), POINTS, diagnosis))
    assert f"Problem: no-spread. All rewards of {EVIL!r} are 0. What to do: Change this." in page.text
    assert "Do they vary?" in page.text and "Does it move? Not checked: the KL is not recorded." in page.text
    assert len(page.all("script")) == 1 and page.all("img") == []
    healthy = Page(eval_page(made(), POINTS, Diagnosis((), ("Do they vary?",), {})))
    assert "Training, examined Nothing found. What was checked Do they vary?" in healthy.text
    assert "Training, examined" not in Page(eval_page(made(), POINTS)).text


def test_a_run_without_history_says_so() -> None:
    assert "No rewards were recorded in training." in Page(eval_page(made(), [])).text


def test_only_the_most_sampled_preference_groups_get_a_panel() -> None:
    points = [(1, f"g{i:03d}", 0.5, i) for i in range(1, MOST_PANELS + 4)]
    page = Page(eval_page(made(), points))
    assert "The 3 preference groups with the fewest completions are not drawn." in page.text
    assert "g027" in page.text and "g003" not in page.text


def test_a_comparison_shows_both_sides() -> None:
    page = Page(a_comparison())
    # other - demo: calm -0.2, the other +0.1; macro -0.05.
    assert "other is behind demo in mean reward over 2 preference groups (-0.050" in page.text
    assert "demo, tuned · reward" in page.text and "other, tuned · reward" in page.text
    assert f"advantage.estimator pgrpo {EVIL}" in page.text


def test_runs_without_a_difference_in_their_recipes() -> None:
    result = made()
    comparison = compare_evaluations([Entrant("demo", result), Entrant("demo", result)])
    page = Page(comparison_page(comparison, {"demo": result}, {"demo": TrainingRecord(POINTS)}))
    assert "nothing besides their names" in page.text
    assert "demo is no different from demo" in page.text


def test_a_method_is_a_line_with_a_band_and_one_column_of_samples() -> None:
    results, progress = {}, {}
    for estimator, reward in (("grpo", 0.2), ("pgrpo", 0.4)):
        for seed in (0, 1, 2):
            recipe = {"seed": seed, "advantage": {"estimator": estimator}}
            tuned = spread({"calm": reward + 0.01 * seed, EVIL: 0.1})
            label = f"{estimator}-{seed}"
            results[label] = made(tuned, run=label, seed=seed, recipe=recipe)
            points = [
                (step, group, reward * step + seed / 10, 8) for step in (1, 2, 3) for group in ("calm", EVIL)
            ]
            progress[label] = TrainingRecord(points, seconds={1: 2.0, 2: 2.0, 3: 2.0})
    comparison = compare_evaluations(
        [Entrant(label, result) for label, result in results.items()], records=progress
    )
    source = comparison_page(comparison, results, progress)
    page = Page(source)
    # Two methods in three panels: the macro mean and both preference groups.
    assert len([p for p in page.all("polygon") if str(p["class"]).startswith("band")]) == 6
    assert "Bands: from the lowest to the highest seed" in page.text
    assert "not of held-out prompts" in page.text
    assert "grpo: grpo-0, grpo-1, grpo-2 (seeds 0, 1, 2)" in page.text
    answers = re.findall(r"<h4>(.*?) · reward", source)
    shown = ["base model", "grpo, tuned", "pgrpo, tuned"]
    assert answers[:3] == shown and set(answers) == set(shown)
    assert "pgrpo is ahead of grpo" in page.text
    for plot in page.all("svg"):
        assert plot["role"] == "img" and len(str(plot["aria-label"])) > 20
