"""An evaluation that may have found all preference groups served alike."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from pgrpo_cli.diagnosis.personalization import find_alike
from pgrpo_cli.diagnosis.rules import diagnose
from pgrpo_cli.diagnosis.view import Personalization
from pgrpo_cli.state.results import result_path, write_result
from pgrpo_cli.state.run_view import view_of
from tests.diagnosis.test_findings import view
from tests.support.made_runs import Made, make
from tests.support.results import result_of, spread

RUN = view({"a": [0.0, 1.0, 1.0], "b": [0.0, 1.0, 1.0]})


@pytest.mark.parametrize(("low", "found"), [(-0.1, True), (0.0, True), (0.01, False), (math.nan, False)])
def test_a_margin_that_may_be_none_is_a_finding(low: float, found: bool) -> None:
    seen = replace(RUN, personalization=Personalization(28, 0.05, low, 0.2))
    assert [finding.rule for finding in diagnose(seen).findings] == ["served-alike"] * found


def test_what_prepare_found_stands_beside_it() -> None:
    (finding,) = find_alike(
        replace(RUN, personalization=Personalization(28, 0.05, -0.1, 0.2, 0.4, 0.61, 0.5))
    )
    assert finding.says == (
        "The evaluation after step 28 does not show that preference groups are served differently: an "
        "answer earns 0.05 [-0.1, 0.2] standard deviations more by its own preference group's reward than "
        "by the others'. "
        "40 % of the prompts read the same in another preference group. From the prompts, a plain classifier "
        "names the preference group of 61 % of those held out, where chance is 50 %."
    )
    assert "data.conditioning" in finding.remedy
    assert finding.numbers["ambiguous_share"] == 0.4


def test_doctor_reads_the_newest_matrix_and_the_manifest(tmp_path: Path) -> None:
    run = make(tmp_path / "run", Made(), steps=12)
    assert view_of(run).personalization is None
    rewards = spread({"a": 0.2, "b": 0.6})
    result = result_of(rewards, rewards)
    assert result.matrix is not None
    write_result(result, result_path(run, 8))
    write_result(result.model_copy(update={"matrix": None}), result_path(run, 9))
    run.data.mkdir(exist_ok=True)
    numbers = {"ambiguous_share": 0.25, "classifier_accuracy": None, "chance": None}
    (run.data / "manifest.json").write_text(json.dumps({"conditioning": numbers}))
    found = view_of(run).personalization
    assert found is not None
    assert found.margin == result.matrix.margin.tuned.mean
    assert (found.step, found.ambiguous_share, found.classifier_accuracy) == (result.step, 0.25, None)
