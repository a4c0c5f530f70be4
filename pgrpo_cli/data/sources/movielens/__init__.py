"""MovieLens: which film will this user like next? Ratings in the order of time, split by time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pgrpo_cli.data.records import PromptRecord, RejectedRow, SourceData
from pgrpo_cli.data.sources.context import ReadContext
from pgrpo_cli.data.sources.rejections import Rejections
from pgrpo_cli.errors import DataError
from pgrpo_cli.recipe.public_sets import MovielensSource

from .collection import find_collection
from .films import read_films, read_tags
from .ratings import Ratings, read_ratings
from .targets import UserSplit, cut_time, split_users, training_pool
from .users import PromptWriter, Taste, TasteReader

NO_GENRE = "no genre"


def read_movielens(section: MovielensSource, context: ReadContext) -> SourceData:
    """The prompts of the collection's users in the order of their ids, and the users' profiles.

    Raises DataError where files are missing, most of their rows are broken, or no user has a target that can
    be trained on.
    """
    rejections = Rejections()
    collection = find_collection(section.path, context.recipe_dir, with_tags=section.tags > 0)
    layout = collection.layout
    films = read_films(collection.films, layout, rejections)
    ratings = read_ratings(collection.ratings, layout, films.ids_F, rejections)
    cut = cut_time(ratings, section)
    splits = split_users(ratings, section, cut, context.seed, rejections)
    _require_training(splits, section, ratings)
    tags = read_tags(collection.tags, layout, films, section.tags, cut, rejections)
    taste_of = TasteReader(ratings, films, tags, 2 * section.min_rating)
    tastes = {split.user: taste_of(split, cut) for split in splits}
    groups = _preference_groups(splits, tastes, all_needed=context.groups_from_rows)
    write = PromptWriter(ratings, films, training_pool(ratings, splits, cut), section, context.seed)
    train = tuple(write(split, row, "train", groups[split.user]) for split in splits for row in split.train)
    texts = {record.messages[-1]["content"] for record in train}
    held_out = tuple(_held_out(splits, groups, write, texts, ratings, rejections))
    profiles = {str(ratings.user_ids_U[user]): taste.profile for user, taste in tastes.items()}
    notes = _drawn(len(splits), len(ratings.user_ids_U), section)
    return SourceData(
        train, held_out, rejections.rows(), collection.files, profiles, notes, rejections.rows_by_file
    )


def _drawn(drawn: int, users: int, section: MovielensSource) -> tuple[str, ...]:
    if drawn != section.max_users or drawn == users:
        return ()
    return (f"Users: {drawn:,} of {users:,}, drawn at random (data.source.max_users).",)


def _preference_groups(
    splits: list[UserSplit], tastes: Mapping[int, Taste], *, all_needed: bool
) -> dict[int, str]:
    """The favourite genre of each user.

    With `all_needed` a user without training prompts gets the favourite among those of users who have some,
    and no entry where there is none.
    """
    groups = {user: next(iter(taste.genres), NO_GENRE) for user, taste in tastes.items()}
    if not all_needed:
        return groups
    trained = {groups[split.user] for split in splits if split.train}
    for split in splits:
        if not split.train and groups[split.user] not in trained:
            near = next((genre for genre in tastes[split.user].genres if genre in trained), None)
            if near is None:
                del groups[split.user]
            else:
                groups[split.user] = near
    return groups


def _held_out(
    splits: list[UserSplit],
    groups: Mapping[int, str],
    write: PromptWriter,
    texts: set[str],
    ratings: Ratings,
    rejections: Rejections,
) -> Iterator[PromptRecord]:
    for split in splits:
        for row in split.held_out:
            line = int(ratings.line_N[row])
            if split.user not in groups:
                detail = f"user {ratings.user_ids_U[split.user]} shares no genre with users who have some"
                rejections.add(
                    RejectedRow(
                        "preference group without training prompts", detail, ratings.name, line, left_out=True
                    )
                )
                continue
            record = write(split, row, "eval", groups[split.user])
            if record.messages[-1]["content"] in texts:
                detail = f"user {record.user_id} rated the same films as another one"
                reason = "the same text is in training too"
                rejections.add(RejectedRow(reason, detail, ratings.name, line, left_out=True))
                continue
            yield record


def _require_training(splits: list[UserSplit], section: MovielensSource, ratings: Ratings) -> None:
    if any(split.train for split in splits):
        return
    users = len(ratings.user_ids_U)
    raise DataError(
        f"no film of {ratings.name} can be a target of training: of {users} users none has "
        f"{section.min_ratings} ratings and, before what is held out, a film of {section.min_rating:g} stars "
        f"or more with {section.history} rated before it",
        remedy="Lower data.source.min_ratings, min_rating or history"
        + (", or raise data.source.cut." if section.holdout == "cut" else "."),
    )
