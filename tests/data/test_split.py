from collections import Counter, defaultdict
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgrpo_cli.data.records import text_key
from pgrpo_cli.data.split import keep_apart, split
from pgrpo_cli.errors import DataError
from tests.support.records import record

records_strategy = st.lists(
    st.builds(record, st.sampled_from([f"text {i}" for i in range(12)]), st.sampled_from("abcd")), max_size=60
)


def split_by_text(records, fraction, seed):
    halves = split(records, "text", fraction, seed)
    # Texts are held out whole, so nothing has to be dropped.
    assert halves.dropped == ()
    return list(halves.train), list(halves.eval)


def texts(records):
    return {text_key(record) for record in records}


@given(records_strategy, st.floats(0.05, 0.95), st.integers(0, 5))
def test_nothing_is_lost_no_text_is_in_both_and_every_group_can_train(records, fraction, seed):
    train, evaluation = split_by_text(records, fraction, seed)
    assert Counter(map(id, train + evaluation)) == Counter(map(id, records))
    assert not texts(train) & texts(evaluation)
    groups = {record.preference_group for record in records}
    assert {record.preference_group for record in train} == groups


@given(
    sizes=st.lists(st.integers(2, 30), min_size=1, max_size=4),
    fraction=st.floats(0.05, 0.9),
    seed=st.integers(0, 5),
)
def test_each_group_gives_its_share_where_groups_share_no_text(sizes, fraction, seed):
    records = [record(f"{g}/{i}", str(g)) for g, size in enumerate(sizes) for i in range(size)]
    _, evaluation = split_by_text(records, fraction, seed)
    held_out = Counter(record.preference_group for record in evaluation)
    for g, size in enumerate(sizes):
        assert held_out[str(g)] == min(max(1, round(fraction * size)), size - 1)


@given(records_strategy, st.integers(0, 3))
def test_the_order_of_rows_does_not_decide(records, seed):
    _, evaluation = split_by_text(records, 0.3, seed)
    _, of_reversed = split_by_text(records[::-1], 0.3, seed)
    assert texts(evaluation) == texts(of_reversed)


def test_the_order_of_rows_is_kept():
    records = [record(str(i)) for i in range(20)]
    train, evaluation = split_by_text(records, 0.5, 0)
    for part in (train, evaluation):
        assert part == sorted(part, key=lambda record: int(record.prompt_id))


def test_another_seed_holds_out_other_texts():
    records = [record(str(i)) for i in range(40)]
    assert texts(split_by_text(records, 0.3, 0)[1]) != texts(split_by_text(records, 0.3, 1)[1])


def test_groups_with_the_same_texts_hold_out_the_same_ones():
    records = [record(f"text {i}", group) for i in range(20) for group in "abc"]
    _, evaluation = split_by_text(records, 0.2, 0)
    held_out = defaultdict(set)
    for held in evaluation:
        held_out[held.preference_group].add(held.messages[0]["content"])
    assert held_out["a"] == held_out["b"] == held_out["c"]
    assert len(held_out["a"]) == 4


def test_a_group_of_one_text_stays_in_training():
    train, evaluation = split_by_text([record("only", "a", "1"), record("only", "a", "2")], 0.5, 0)
    assert (len(train), evaluation) == (2, [])


@pytest.mark.parametrize(
    "other", ["Où  EST\nle café?", "ou\u0300 est le cafe\u0301?", "OU\u0300 EST LE CAFÉ?"]
)
def test_case_spacing_and_unicode_make_no_other_text(other):
    assert text_key(record(other)) == text_key(record("Où est le café?"))


def test_the_system_message_makes_no_other_text():
    plain = record("Hi")
    with_system = replace(plain, messages=({"role": "system", "content": "Be kind."}, *plain.messages))
    assert text_key(with_system) == text_key(plain)
    assert text_key(record("Ho")) != text_key(plain)


timed_records = st.lists(
    st.builds(
        lambda text, group, user, time: replace(record(text, group), user_id=user, time=float(time)),
        st.sampled_from([f"text {i}" for i in range(30)]),
        st.sampled_from("abc"),
        st.sampled_from(["u", "v", "w", "x", "y", "z"]),
        st.integers(0, 6),
    ),
    max_size=50,
)


@given(timed_records, st.sampled_from(["text", "user", "time"]), st.floats(0.05, 0.95), st.integers(0, 5))
def test_every_split_keeps_its_promises(records, split_by, fraction, seed):
    halves = split(records, split_by, fraction, seed)
    # Nothing is lost, and what is dropped has a text that is held out.
    assert len(halves.train) + len(halves.eval) + len(halves.dropped) == len(records)
    kept = {id(member) for member in (*halves.train, *halves.eval)}
    missing = [member for member in records if id(member) not in kept]
    assert texts(missing) <= texts(halves.eval)
    assert Counter(row.row for row in halves.dropped) == Counter(m.messages[-1]["content"] for m in missing)
    # No text is on both sides, and every preference group can train.
    assert not texts(halves.train) & texts(halves.eval)
    assert {member.preference_group for member in halves.train} == {m.preference_group for m in records}
    # The order given is kept.
    order = {id(member): index for index, member in enumerate(records)}
    for half in (halves.train, halves.eval):
        assert [order[id(member)] for member in half] == sorted(order[id(member)] for member in half)


@given(timed_records, st.floats(0.05, 0.95), st.integers(0, 5))
def test_a_user_is_on_one_side(records, fraction, seed):
    halves = split(records, "user", fraction, seed)
    assert not {member.user_id for member in halves.train} & {member.user_id for member in halves.eval}


@given(timed_records, st.floats(0.05, 0.95), st.integers(0, 5))
def test_no_one_trains_on_what_came_after_the_first_prompt_held_out(records, fraction, seed):
    halves = split(records, "time", fraction, seed)
    for user in {member.user_id for member in halves.eval}:
        first = min(member.time for member in halves.eval if member.user_id == user)
        assert all(member.time < first for member in halves.train if member.user_id == user)
        assert any(member.time < first for member in records if member.user_id == user)


@given(timed_records, st.sampled_from(["user", "time"]), st.floats(0.05, 0.95), st.integers(0, 3))
def test_the_order_of_rows_decides_no_split(records, split_by, fraction, seed):
    def held_out(rows):
        return Counter((m.user_id, m.time, text_key(m), m.preference_group) for m in rows)

    one = split(records, split_by, fraction, seed)
    other = split(records[::-1], split_by, fraction, seed)
    assert held_out(one.eval) == held_out(other.eval)


def of_users(sizes, group="a"):
    """`sizes` prompts of a user each, one text and one time each."""
    return [
        replace(record(f"{group}/{user}/{i}", group), user_id=f"{group}{user}", time=float(i))
        for user, size in enumerate(sizes)
        for i in range(size)
    ]


@given(
    groups=st.lists(st.lists(st.integers(2, 9), min_size=2, max_size=8), min_size=1, max_size=3),
    fraction=st.floats(0.05, 0.4),
    seed=st.integers(0, 5),
)
def test_each_group_gives_its_share_of_users_and_of_latest_prompts(groups, fraction, seed):
    records = [made for g, sizes in enumerate(groups) for made in of_users(sizes, str(g))]
    by_user, by_time = split(records, "user", fraction, seed), split(records, "time", fraction, seed)
    assert by_user.dropped == by_time.dropped == ()
    for g, sizes in enumerate(groups):
        users = {member.user_id for member in by_user.eval if member.preference_group == str(g)}
        assert len(users) == max(1, round(fraction * len(sizes)))
        latest = [member for member in by_time.eval if member.preference_group == str(g)]
        assert len(latest) == max(1, round(fraction * sum(sizes)))


def test_the_latest_prompts_are_held_out_from_as_many_users_as_it_takes():
    # A fifth of 4 · 5 prompts is 4: one of each user, the last. A tenth is 2: of every other user.
    records = of_users([5, 5, 5, 5])
    assert {member.messages[0]["content"] for member in split(records, "time", 0.2, 0).eval} == {
        f"a/{user}/4" for user in range(4)
    }
    tenth = split(records, "time", 0.1, 0).eval
    assert [member.time for member in tenth] == [4.0, 4.0]
    assert len({member.user_id for member in tenth}) == 2


def test_prompts_of_the_same_time_stay_together():
    records = [replace(made, time=float(made.time >= 3)) for made in of_users([6, 6])]
    # Half of 12: three of six each, which are those of time 1.
    assert [member.time for member in split(records, "time", 0.5, 0).eval] == [1.0] * 6


def test_a_text_that_is_held_out_leaves_training_everywhere():
    shared = [replace(record("same", "a", f"{user}"), user_id=user, time=9.0) for user in ("u1", "u2")]
    records = [*of_users([4, 4]), *(replace(m, user_id=f"a{i}") for i, m in enumerate(shared))]
    halves = split(records, "time", 0.1, 0)
    assert [member.messages[0]["content"] for member in halves.eval] == ["same"]
    (row,) = halves.dropped
    assert (row.reason, row.preference_group) == ("text is held out for evaluation too", "a")


def test_the_halves_of_a_source_are_kept_apart():
    train, held_out = [record("One"), record("two", "b"), record("three")], [record("one "), record("four")]
    halves = keep_apart(train, held_out)
    assert (list(halves.train), list(halves.eval)) == (train[1:], held_out)
    assert [row.row for row in halves.dropped] == ["One"]


def turns_of(conversation, turns=3, group="a"):
    """A record for each turn, which has all turns before it, and the system's message."""
    messages = [{"role": "system", "content": "Be kind."}]
    for turn in range(turns):
        messages.append({"role": "user", "content": f"{conversation}, question {turn}"})
        yield replace(record(f"{conversation}/{turn}", group), messages=tuple(messages))
        messages.append({"role": "assistant", "content": f"{conversation}, answer {turn}"})


def conversations(records):
    return {member.prompt_id.split("/")[0] for member in records}


def test_a_conversation_is_on_one_side():
    records = [made for i in range(20) for made in turns_of(f"c{i}", 1 + i % 4, "ab"[i % 2])]
    train, evaluation = split_by_text(records, 0.2, 0)
    # A fifth of each preference group's 10 conversations, with all their turns.
    assert len(conversations(evaluation)) == 4
    assert not conversations(train) & conversations(evaluation)


def test_conversations_that_begin_with_the_same_prompt_are_on_one_side():
    opening, second, _ = turns_of("one")
    other = replace(second, messages=(*opening.messages, {"role": "assistant", "content": "So."}))
    assert len(split([opening, second, other, record("else")], "text", 0.5, 0).train) in (1, 3)
    # The opening alone is no prompt: nothing that is held out would be trained on.
    assert len(split([second, other], "text", 0.5, 0).eval) == 1


@pytest.mark.parametrize("split_by", ["user", "time"])
def test_no_training_prompt_begins_with_one_that_is_held_out(split_by):
    asked = [
        replace(record("first"), user_id="v", time=-1.0),
        *(replace(made, user_id=user, time=0.0) for user, made in zip("vuu", turns_of("one"), strict=True)),
        *(replace(record(f"later {i}"), user_id="u", time=1.0 + i) for i in range(4)),
    ]
    all_dropped = set()
    for seed in range(20):
        halves = split(asked, split_by, 0.5, seed)
        for member in halves.train:
            assert not any(member.messages[: len(held.messages)] == held.messages for held in halves.eval)
        all_dropped |= {row.row for row in halves.dropped}
    assert all_dropped == {"one, question 1", "one, question 2"}


def test_a_source_s_training_prompt_that_begins_with_a_held_out_one_is_left_out():
    opening, second, third = turns_of("one")
    halves = keep_apart([opening, third, record("two")], [second])
    assert [member.prompt_id for member in halves.train] == ["one/0", "two"]
    assert [row.row for row in halves.dropped] == ["one, question 2"]


@pytest.mark.parametrize(
    ("split_by", "change", "words"),
    [
        ("user", {"user_id": None}, r"needs the user of every prompt; 1 of 4 lack it, the first: f\.jsonl:7"),
        ("time", {"user_id": None}, "needs the user and the time"),
        ("time", {"time": None}, r"user_column and data\.source\.time_column"),
        ("time", {"time": float("nan")}, "1 of 4 lack it"),
    ],
)
def test_what_a_split_goes_by_must_be_known(split_by, change, words):
    records = of_users([4])
    records[2] = replace(records[2], file="f.jsonl", line=7, **change)
    with pytest.raises(DataError, match=words):
        split(records, split_by, 0.5, 0)
    assert split(records, "text", 0.5, 0).eval
