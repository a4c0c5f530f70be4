"""Tables and sentences: what is shown, how numbers read, what a terminal makes of them."""

from __future__ import annotations

import io
import math

import pytest
from rich.console import Console

from pgrpo_cli.cli.terminal import show_table
from pgrpo_cli.report.more_tables import details_table, overview_table, parts_table
from pgrpo_cli.report.sentences import chance_sentence, comparison_sentence, eval_sentence, method_sentence
from pgrpo_cli.report.tables import (
    MACRO,
    WEIGHTED,
    ReportTable,
    comparison_table,
    eval_table,
    learning_table,
    number,
    percent,
    percents,
    to_rich,
)
from pgrpo_cli.stats.estimates import verdict
from pgrpo_cli.stats.evaluation import summarise
from pgrpo_cli.stats.intervals import Bootstrap
from pgrpo_cli.stats.learning import TrainingRecord
from pgrpo_cli.stats.result_types import Estimate
from pgrpo_cli.verbs.compare import Entrant, compare_evaluations
from tests.support.results import result_of, rows_of, spread

# loud gains 0.3 on every prompt, calm nothing, and the odd name loses 0.05.
BASE = spread({"calm": 0.1, "loud": 0.2, "[bold]x": 0.4})
TUNED = spread({"calm": 0.1, "loud": 0.5, "[bold]x": 0.35})
RESULT = result_of(BASE, TUNED)
OTHER = result_of(BASE, spread({"calm": 0.2, "loud": 0.4, "[bold]x": 0.35}), run="other")
COMPARISON = compare_evaluations([Entrant("demo", RESULT), Entrant("other", OTHER)])


def shown(table: ReportTable, width: int) -> str:
    """The table as a terminal of `width` columns shows it."""
    console = Console(file=io.StringIO(), width=width)
    show_table(to_rich(table, width), console)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def texts(table: ReportTable) -> list[list[str]]:
    return [[cell.text for cell in row] for row in table.rows]


def test_base_against_tuned() -> None:
    # Macro: (0.1 + 0.2 + 0.4) / 3 = 0.233 and (0.1 + 0.5 + 0.35) / 3 = 0.317.
    table = eval_table(RESULT)
    assert table.columns == ("preference group", "base", "tuned", "tuned - base", "verdict", "prompts")
    assert texts(table) == [
        ["[bold]x", "0.400", "0.350", "-0.050", "behind", "6"],
        ["calm", "0.100", "0.100", "+0.000", "can't tell", "6"],
        ["loud", "0.200", "0.500", "+0.300", "ahead", "6"],
        [MACRO, "0.233", "0.317", "+0.083", "ahead", "18"],
        [WEIGHTED, "0.233", "0.317", "+0.083", "ahead", "18"],
    ]
    assert table.rows[2][3].detail == "[0.300..0.300]"
    assert [row[4].tone for row in table.rows] == ["bad", "muted", "good", "good", "good"]


def test_the_overview_fits_a_terminal() -> None:
    found = summarise(RESULT.rows, Bootstrap(100), {"calm": 5, "loud": 90, "[bold]x": 5}).fairness
    weighted = RESULT.model_copy(update={"fairness": found})
    text = shown(overview_table(weighted), 100)
    assert max(map(len, text.splitlines())) <= 100
    lines = {" ".join(line.split()[:2]): line for line in text.splitlines() if line.strip()}
    # Gains -0.05, 0, 0.3: one of three wins all of its pairs, one ties, one loses some.
    assert "-0.050" in lines["worst gain"] and "[bold]x" in lines["worst gain"]
    assert "0.350" in lines["largest -"]
    # Minority [bold]x and calm: -0.025 against 0.3.
    assert "-0.325" in lines["minority -"]
    assert "gain -0.025 against 0.300: [bold]x, calm" in lines["minority -"]
    assert "20 → 21" in lines["perplexity 20"] and "0.020 [0.020..0.020]" in lines["KL to"]
    assert "n/a" not in text


def test_details_and_parts_have_a_line_a_group_and_the_macro_mean() -> None:
    rows = texts(details_table(RESULT))
    assert [row[0] for row in rows] == ["[bold]x", "calm", "loud", MACRO]
    assert rows[2][1:4] == ["33 %", "100 %", "100 %"] and rows[1][2:5] == ["50 %", "0 %", "+0.000"]
    parts = parts_table(RESULT)
    assert parts.columns == ("preference group", "style")
    assert texts(parts)[2] == ["loud", "0.200 → 0.500"]
    assert [row[1].tone for row in parts.rows] == ["bad", "muted", "good", "good"]


def test_run_against_reference() -> None:
    # Macro: (0 + 0.1 - 0.1) / 3 on every draw, up to rounding.
    table = comparison_table(COMPARISON, "other")
    assert [row[:5] + row[7:] for row in texts(table)[:3]] == [
        ["[bold]x", "0.350", "0.350", "+0.000", "no difference", "6"],
        ["calm", "0.100", "0.200", "+0.100", "can't tell", "6"],
        ["loud", "0.500", "0.400", "-0.100", "can't tell", "6"],
    ]
    assert [texts(table)[3][i] for i in (0, 1, 2, 3, 7)] == [MACRO, "0.317", "0.317", "+0.000", "18"]
    # calm and loud differ alike on every prompt: no spread, so no effect size. The sign test of six prompts
    # is 2^-5, times three groups. The completions of [bold]x are the same.
    assert texts(table)[1][5:7] == ["n/a", "0.094"]
    assert table.title.startswith("other against demo")


def test_a_run_against_itself_stands_once() -> None:
    table = comparison_table(compare_evaluations([Entrant("a", RESULT)] * 3), "a")
    assert [row[0].text for row in table.rows] == ["[bold]x", "calm", "loud", MACRO]


def test_a_terminal_of_80_columns_shows_the_interval_that_matters() -> None:
    text = shown(eval_table(RESULT), 80)
    assert max(map(len, text.splitlines())) <= 80
    assert "+0.300 [0.300..0.300]" in text
    assert "0.500 [" not in text
    assert "prompts  " not in text.replace("held-out prompts", "")


def test_names_of_twenty_characters_fit_on_a_line_of_80_columns() -> None:
    name = "flowing-electronic-x"
    result = result_of(spread({name: -0.1}), spread({name: -0.5}))
    line = next(line for line in shown(eval_table(result), 80).splitlines() if name in line)
    assert line.split() == [name, "-0.100", "-0.500", "-0.400", "[-0.400..-0.400]", "behind"]


def test_a_long_verdict_takes_no_room_from_names() -> None:
    base = {"excited-electronic": {"a": [0.1], "b": [0.9]}}
    tuned = {"excited-electronic": {"a": [0.2], "b": [0.7]}}
    first, second = result_of(base, base), result_of(base, tuned, run="other")
    table = comparison_table(compare_evaluations([Entrant("demo", first), Entrant("other", second)]), "other")
    (line,) = (line for line in shown(table, 80).splitlines() if "excited-electronic" in line)
    assert line.rstrip().endswith("can't tell")
    # What could have been seen stands where there is room.
    assert "with 2 prompts, which show differences of" in " ".join(shown(table, 300).split())


def test_a_wide_terminal_shows_all_intervals() -> None:
    text = shown(eval_table(RESULT), 130)
    assert "0.500 [" in text
    assert text.splitlines()[2].split()[-1] == "prompts"


def test_names_of_preference_groups_are_no_markup() -> None:
    assert "[bold]x" in shown(eval_table(RESULT), 80)


def compared_at_length() -> ReportTable:
    """How fast two methods with long names learn, with intervals over seeds."""
    entrants, records = [], {}
    for rate in (0.0012, 0.0024):
        for seed in (0, 1):
            label = f"quickstart-pgrpo-lr_{rate}-seed{seed}"
            recipe = {"seed": seed, "train": {"learning_rate": rate}}
            entrants.append(Entrant(label, result_of(BASE, TUNED, run=label, recipe=recipe, seed=seed)))
            curve = {step: {"calm": 0.1 + step / 100 + rate * seed} for step in range(0, 241, 8)}
            seconds = dict.fromkeys(range(1, 241), 50.5 + seed)
            records[label] = TrainingRecord(held_out=curve, seconds=seconds)
    table = learning_table(compare_evaluations(entrants, (), records, 1.5), macro_only=True)
    assert table is not None
    return table


TABLES = {
    "eval": eval_table(RESULT),
    "overview": overview_table(RESULT),
    "comparison": comparison_table(COMPARISON, "other"),
    "how fast": compared_at_length(),
}


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("width", [20, 40, 60, 80])
def test_no_number_is_cut_or_broken_in_a_narrow_terminal(name: str, width: int) -> None:
    table, text = TABLES[name], shown(TABLES[name], width)
    headings = [heading for i, heading in enumerate(table.columns) if i not in table.optional]
    assert all(word in text for heading in headings[1:] for word in heading.split())
    for row in table.rows:
        for i in set(range(1, len(row))) - table.optional:
            cell = f"{row[i].text} {row[i].detail}".strip() if i in table.details else row[i].text
            # Where a cell is a sentence, its words stand below each other; those of an interval do not.
            assert all(part in text for part in ([cell] if i in table.details else cell.split()))
    shortest = max(max(len(word) for word in row[0].text.split()) for row in table.rows)
    assert max(map(len, text.splitlines())) <= max(width, 70 + min(shortest, 8))


@pytest.mark.parametrize(
    ("value", "signed", "expected"),
    [
        (0.1234, False, "0.123"),
        (0.1234, True, "+0.123"),
        (-0.5, True, "-0.500"),
        (123.456, False, "123.5"),
        (0.0001234, True, "+1.2e-04"),
        (-2e7, False, "-2.0e+07"),
        (1e-17, True, "+0.000"),
        (math.nan, True, "n/a"),
    ],
)
def test_numbers_for_reading(value: float, signed: bool, expected: str) -> None:
    assert number(value, signed=signed) == expected


@pytest.mark.parametrize(
    ("share", "expected"),
    [(0.0, "0 %"), (1.0, "100 %"), (0.997, "99.7 %"), (0.004, "0.4 %"), (1e-5, "0.1 %"), (0.256, "26 %")],
)
def test_a_share_that_is_not_all_is_not_shown_as_all(share: float, expected: str) -> None:
    assert percent(share) == expected


def test_a_short_interval_of_a_share_shows_what_it_excludes() -> None:
    assert percents(Estimate(mean=0.504, ci_low=0.501, ci_high=0.508, n=9)) == "[50.1..50.8]"
    assert percents(Estimate(mean=0.5, ci_low=0.25, ci_high=0.75, n=9)) == "[25..75]"


def test_an_unknown_interval_is_left_out() -> None:
    table = eval_table(result_of({"calm": {"a": [0.5]}}, {"calm": {"a": [0.7]}}))
    assert table.rows[0][3].text == "+0.200"
    assert table.rows[0][3].detail == ""
    assert table.rows[0][4].text == "can't tell"


def test_the_evaluation_in_a_sentence() -> None:
    macro = RESULT.overall.macro.difference
    assert eval_sentence(RESULT) == (
        "Mean reward over 3 preference groups, each counted once: 0.233 before training, 0.317 after "
        f"(+0.083 [{macro.ci_low:.3f}..{macro.ci_high:.3f}]: ahead). "
        "In standard deviations of each preference group's rewards before training: "
        "+0.928 [0.928..0.928] (ahead). "
        "By preference group: ahead 1 (loud), behind 1 ([bold]x), can't tell 1 (calm)."
    )


def test_many_preference_groups_are_counted_not_named() -> None:
    groups = {f"g{i:02d}": 0.1 for i in range(9)}
    sentence = eval_sentence(result_of(spread(groups), spread(dict.fromkeys(groups, 0.3))))
    assert sentence.endswith("By preference group: ahead 9.")


def test_the_comparison_in_a_sentence() -> None:
    better = result_of(BASE, spread({"calm": 0.4, "loud": 0.6, "[bold]x": 0.35}), run="better")
    comparison = compare_evaluations(
        [Entrant("demo", RESULT), Entrant("better", better), Entrant("demo", RESULT)]
    )
    # Macro: (0.3 + 0.1 + 0) / 3
    assert comparison_sentence(comparison, "better") == (
        "better is ahead of demo in mean reward over 3 preference groups (+0.133 [0.133..0.133]). "
        "In standard deviations of each preference group's rewards before training: "
        "+1.485 [1.485..1.485] (ahead). "
        "By preference group: no difference 1 ([bold]x), can't tell 2 (calm, loud)."
    )
    assert comparison_sentence(comparison, "demo").startswith("demo is no different from demo in mean reward")


def test_only_preference_groups_with_prompts_are_counted() -> None:
    unscored = {"calm": {prompt: [math.nan] for prompt in TUNED["calm"]}}
    result = result_of(BASE, {**TUNED, **unscored}, run="other")
    assert eval_sentence(result).startswith("Mean reward over 2 preference groups, each counted once: ")
    compared = compare_evaluations([Entrant("demo", RESULT), Entrant("other", result)])
    says = comparison_sentence(compared, "other")
    assert "in mean reward over 2 preference groups (" in says
    assert says.endswith(" Without a prompt in common, so not in the mean: calm.")


def test_how_the_numbers_were_made() -> None:
    sentence = method_sentence(RESULT)
    assert "18 held-out prompts, 2 completions of each model" in sentence
    assert "95 % bootstrap intervals over prompts (500 resamples, seed 7)" in sentence


def test_an_interval_of_length_0_is_not_said_to_be_certain() -> None:
    says = "An interval of length 0 says only that all values were equal"
    doubled = {g: {p: [2 * v for v in own] for p, own in prompts.items()} for g, prompts in BASE.items()}
    assert says not in method_sentence(result_of(BASE, doubled))
    # Nobody in calm has earned anything.
    nothing = {"calm": {f"calm-{i}": [0.0, 0.0] for i in range(8)}}
    assert says in method_sentence(result_of({**BASE, **nothing}, {**TUNED, **nothing}))
    # All gain alike.
    assert says in method_sentence(RESULT)
    # Equal texts are certainly no different.
    rows = [row for which in ("base", "tuned") for row in rows_of(which, BASE, "answer {index} to {prompt}")]
    same = RESULT.model_copy(update=dict(summarise(rows, Bootstrap(200))))
    assert verdict(same.groups["calm"].difference) == "no difference" and says not in method_sentence(same)


def test_many_intervals_mislead_by_chance() -> None:
    # 20 intervals, each wrong once in 20: one is expected.
    says = chance_sentence(0.95, 20)
    assert "of 20 preference groups without any difference, about 1 would" in says
    assert "more often if values are few or rarely differ" in says
