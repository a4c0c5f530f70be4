"""`type: taste` from files of picks."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pgrpo_cli.errors import DataError, RewardError
from pgrpo_cli.eval.matrix import cross_scores
from pgrpo_cli.feedback.file import append
from pgrpo_cli.feedback.records import Pick
from pgrpo_cli.recipe.rewards import TasteReward
from pgrpo_cli.rewards.base import BuildContext, Completion, LearntReward, RewardFunction
from pgrpo_cli.rewards.reward_sum import RewardSum, Term
from pgrpo_cli.rewards.scoring import Scorer
from pgrpo_cli.rewards.taste.learnt import Taste, learn_taste
from pgrpo_cli.rewards.taste.reward import TasteFunction, build_taste
from tests.support.picks import QUESTION, picks_of
from tests.support.reward_models import save_encoder

MESSAGES = ({"role": "user", "content": QUESTION},)


def terse(text: str) -> float:
    return -len(text.split())


def excited(text: str) -> float:
    return text.count("!")


def built(folder: Path, picks: Sequence[Pick], **values: Any) -> TasteFunction:
    for pick in picks:
        append(folder / "taste.jsonl", pick)
    return build_taste(TasteReward(path="taste.jsonl", **values), BuildContext(folder, False))


def completion(text: str, group: str = "ana", user: str | None = None) -> Completion:
    return Completion("p", group, "", text, {}, MESSAGES, user)


def value(reward: TasteFunction, text: str, group: str = "ana", user: str | None = None) -> float:
    (score,) = reward([completion(text, group, user)])
    assert score.parts == {"value": score.value}
    return score.value


@pytest.fixture(scope="module")
def reward(tmp_path_factory: pytest.TempPathFactory) -> TasteFunction:
    folder = tmp_path_factory.mktemp("taste")
    return built(folder, [*picks_of("ana", terse, 30), *picks_of("ben", excited, 70, seed=1)])


def test_each_user_gets_what_they_like(reward: TasteFunction) -> None:
    short = "Play Coltrane."
    loud = (
        "Play Coltrane! Now! You will love every single minute of this record, as I have loved it for years!"
    )
    assert value(reward, short) > 0.6 > 0.4 > value(reward, loud)
    assert value(reward, loud, "ben") > 0.6 > value(reward, short, "ben")


def test_it_says_how_predictable_each_is_and_what_they_like(reward: TasteFunction) -> None:
    ana, ben = reward.description()
    assert ana.startswith("taste: ana: 29 picks and 1 tie; ")
    assert re.search(
        r"; \d+% are predicted by the others; chance: \d+% to \d+% of a coin's picks, nine times in ten: ",
        ana,
    )
    assert "likes shorter answers" in ana
    assert "exclamation marks" in ben.partition("likes ")[2]
    assert " ties; " in ben


def test_the_group_counts_first_and_then_the_user(reward: TasteFunction) -> None:
    loud = "Play Coltrane! Now!"
    assert value(reward, loud, "jazz", "ben") == value(reward, loud, "ben")
    assert value(reward, loud, "ana", "ben") == value(reward, loud, "ana")


def test_the_details_add_up_to_the_value(reward: TasteFunction) -> None:
    found = reward.details(completion("Play Coltrane."))
    assert 1 / (1 + math.exp(-sum(found.values()))) == pytest.approx(value(reward, "Play Coltrane."))
    assert max(found, key=lambda name: abs(found[name])) in ("length", "sentence_length")
    assert isinstance(reward, LearntReward)
    assert isinstance(reward, RewardFunction)


def test_more_of_a_feature_than_any_pick_had_is_worth_less(reward: TasteFunction) -> None:
    many, far_more = "Play it" + "!" * 50, "Play it" + "!" * 5000
    assert value(reward, many, "ben") > value(reward, far_more, "ben")


@pytest.mark.parametrize("user", ["ana", "ben"])
@pytest.mark.parametrize("text", ["", " \n", "...", "!!!", "- \n- ", "—"])
def test_an_answer_without_a_word_is_worth_nothing(reward: TasteFunction, user: str, text: str) -> None:
    assert value(reward, text, user) == 0 < value(reward, "Tea.", user)
    assert value(reward, "42", user) > 0


def test_who_likes_it_short_likes_best_what_they_have_picked_and_not_a_single_word(
    reward: TasteFunction,
) -> None:
    # The shortest answers that ana has picked have two words.
    values = [value(reward, text) for text in ("Davis.", "Miles Davis.", "Try to play Miles Davis again.")]
    long = value(reward, "Try to play Miles Davis again, and then play all the other records that you have.")
    assert values[1] > max(values[0], values[2]) > long
    assert max(values) == values[1] > 0.7


def test_picks_with_a_blank_answer_are_not_learnt_from(tmp_path: Path) -> None:
    blank = [
        pick.model_copy(update={"id": f"b{n}", "answers": ("", pick.answers[1]), "pick": "1"})
        for n, pick in enumerate(picks_of("ana", terse, 10, seed=2))
    ]
    reward = built(tmp_path, [*picks_of("ana", terse, 30), *blank])
    assert reward.description()[0].endswith("10 picks with a blank answer are not learnt from.")
    assert "ana: 29 picks and 1 tie" in reward.description()[1]
    (tmp_path / "taste.jsonl").unlink()
    with pytest.raises(DataError, match="has no picks between two answers"):
        built(tmp_path, blank)


@pytest.mark.parametrize("text", ["", " ", "\0", "!" * 100_000, "é" * 1000, "\x1b[2J"])
def test_the_value_of_any_text_is_a_share(reward: TasteFunction, text: str) -> None:
    assert 0 <= value(reward, text) <= 1


def test_completions_of_several_users_keep_their_order(reward: TasteFunction) -> None:
    found = reward([completion("Tea!", name) for name in ("ana", "ben", "ana")])
    assert [score.value for score in found] == [value(reward, "Tea!", name) for name in ("ana", "ben", "ana")]


def test_it_is_the_same_each_time_it_is_learnt(tmp_path: Path, reward: TasteFunction) -> None:
    again = build_taste(TasteReward(path=str(reward.path)), BuildContext(tmp_path, False))
    assert value(again, "Play Coltrane now.") == value(reward, "Play Coltrane now.")
    assert again.description() == reward.description()


def test_who_is_not_known_is_named_with_a_near_one(reward: TasteFunction) -> None:
    with pytest.raises(RewardError, match=r"has no taste of 'bem'; did you mean 'ben'\?"):
        value(reward, "Tea.", "bem")


def test_picks_that_are_a_coin_are_refused_with_their_number(tmp_path: Path) -> None:
    coin = [
        p.model_copy(update={"pick": "12"[n % 2]}) for n, p in enumerate(picks_of("ben", terse, 20, seed=3))
    ]
    with pytest.raises(DataError) as caught:
        built(tmp_path, [*picks_of("ana", terse, 30), *coin])
    assert "the picks of ben are predicted no better than by chance" in caught.value.message
    assert "ben: 20 picks; " in caught.value.message
    assert "More picks help" in str(caught.value.remedy)
    only_ana = build_taste(TasteReward(path="taste.jsonl", users=("ana",)), BuildContext(tmp_path, False))
    assert only_ana.users == ("ana",)
    with pytest.raises(RewardError, match="has no taste of 'ben'"):
        value(only_ana, "Tea.", "ben")


def test_a_coin_that_picks_the_same_pairs_again_is_refused(tmp_path: Path) -> None:
    """Whether the first or the second answer is shown first, it is the same pair."""
    coin = [
        p.model_copy(update={"pick": "12"[n * n % 3]})
        for n, p in enumerate(picks_of("ben", terse, 10, seed=3))
    ]
    other = {"1": "2", "2": "1"}
    turned = [p.model_copy(update={"answers": p.answers[::-1], "pick": other[p.pick]}) for p in coin]
    four = [pick for both in zip(coin, turned, strict=True) for pick in (*both, *both)]
    again = [pick.model_copy(update={"id": f"{n}"}) for n, pick in enumerate(four)]
    with pytest.raises(DataError, match="no better than by chance"):
        built(tmp_path, again)


def test_a_handful_of_picks_is_too_few(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="ana: 3 picks"):
        built(tmp_path, picks_of("ana", terse, 3))


def test_picks_may_count_for_their_preference_group(tmp_path: Path) -> None:
    picks = picks_of("ana", terse, 15, preference_group="brief")
    picks += picks_of("ben", terse, 15, seed=4, preference_group="brief")
    reward = built(tmp_path, picks, picks_by="preference_group")
    assert reward.users == ("brief",)
    assert value(reward, "Tea.", "brief") > 0.5


def test_a_file_without_picks_and_a_user_without_any_are_errors(tmp_path: Path) -> None:
    (tmp_path / "taste.jsonl").touch()
    with pytest.raises(DataError, match="has no picks"):
        built(tmp_path, [])
    with pytest.raises(DataError, match=r"has no picks of 'anna'; did you mean 'ana'\?"):
        built(tmp_path, picks_of("ana", terse, 20), users=("anna",))
    with pytest.raises(DataError, match="cannot be read"):
        build_taste(TasteReward(path="gone.jsonl"), BuildContext(tmp_path, False))


def test_broken_lines_of_the_file_are_told(tmp_path: Path) -> None:
    (tmp_path / "taste.jsonl").write_text("{\n")
    reward = built(tmp_path, picks_of("ana", terse, 20))
    assert reward.description()[0].startswith(f"{tmp_path}/taste.jsonl:1: not a record (Invalid JSON")


def test_components_of_an_embedding_are_features_too(tmp_path: Path) -> None:
    encoder = {"model": str(save_encoder(tmp_path / "encoder")), "components": 3}
    reward = built(tmp_path, picks_of("ana", terse, 30), embedding=encoder)
    names = list(reward.details(completion("Play Coltrane.")))
    assert names[-3:] == ["component_1", "component_2", "component_3"]
    # Along the first axis the answers of the picks differ most.
    texts = list(dict.fromkeys(text for pick in picks_of("ana", terse, 30) for text in pick.answers))
    assert reward.taste.components is not None
    found = reward.taste.components(texts)
    assert found.mean(axis=0) == pytest.approx(0, abs=1e-6)
    assert found[:, 0].var() > found[:, 1].var() > found[:, 2].var() > 0


def test_a_matrix_asks_what_each_would_give(reward: TasteFunction) -> None:
    whole = RewardSum((Term("taste", 1.0, None, reward),))
    found = cross_scores(Scorer(whole), [completion("Play it! Now!", "ana", "ana")], ["ana", "ben"])
    assert found == {name: [value(reward, "Play it! Now!", name)] for name in ("ana", "ben")}


def test_of_more_than_twenty_users_those_are_named_who_shall_have_it(tmp_path: Path) -> None:
    crowd = [pick for n in range(20) for pick in picks_of(f"user {n}", excited, 2, seed=n)]
    with pytest.raises(DataError, match="has picks of 21 users; of 20 at most a taste is learnt"):
        built(tmp_path, [*picks_of("ana", terse, 30), *crowd])
    section = TasteReward(path="taste.jsonl", users=("ana",))
    reward = build_taste(section, BuildContext(tmp_path, False))
    assert value(reward, "Play Coltrane.") > 0.6
    assert reward.taste.model.weights.keys() == {"ana"}


def test_the_latest_picks_are_learnt_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pgrpo_cli.rewards.taste.reward.MOST_PICKS", 30)
    reward = built(tmp_path, [*picks_of("ana", excited, 40), *picks_of("ana", terse, 30, seed=5)])
    sentence = "taste.jsonl: 30 of 70 picks are learnt from: the latest of each user."
    assert reward.description()[0].endswith(sentence)
    assert value(reward, "Play Coltrane.") > 0.6


@pytest.mark.parametrize(
    ("users", "anas", "bens"), [(("ana",), 40, 20), (("ana", "ben"), 30, 30), (None, 30, 30)]
)
def test_picks_of_others_that_came_later_push_nobodys_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, users: tuple[str, ...] | None, anas: int, bens: int
) -> None:
    learnt: list[Pick] = []

    def learn(picks: Sequence[Pick], *arguments: Any) -> Taste:
        learnt.extend(picks)
        return learn_taste(picks, *arguments)

    monkeypatch.setattr("pgrpo_cli.rewards.taste.reward.MOST_PICKS", 60)
    monkeypatch.setattr("pgrpo_cli.rewards.taste.reward.learn_taste", learn)
    earlier, later = picks_of("ana", terse, 40), picks_of("ben", len, 80, seed=1)
    reward = built(tmp_path, [*earlier, *later], users=users)
    assert value(reward, "Play Coltrane.") > 0.6
    # The latest of each, in the order of the file.
    assert [pick.id for pick in learnt] == [pick.id for pick in [*earlier[-anas:], *later[-bens:]]]
