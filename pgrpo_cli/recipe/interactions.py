"""`data.source`: what people rated and reviewed, from public collections of recommendation data."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from .base import Section
from .path_text import PathText


class MovielensSource(Section):
    """MovieLens ratings: after the films that a user rated comes the one that they will like next.

    Folder or zip file as GroupLens gives them out: 1M and 10M (`ratings.dat`, `movies.dat`), latest-small,
    25M, 32M and the like (`ratings.csv`, `movies.csv`). Films of the same second count as neither earlier nor
    later. What is shown in training prompts, and what a user's profile is made of, precedes everything of
    theirs that is held out. A profile holds, for each genre, how many stars its films are above the user's
    mean, shrunk towards 0 where they are few, and the same for tags that many films have. Rows name as
    preference group the genre that is highest there. Further columns for rewards: `target`, `candidates`,
    `genres`, `watched`, with titles as MovieLens writes them ('Matrix, The (1999)').
    """

    type: Literal["movielens"] = "movielens"
    path: PathText = Field(description="Folder or zip file; a relative path starts at the recipe's folder.")
    history: int = Field(
        10,
        ge=1,
        description="Rated films that a prompt shows, the latest ones; films with fewer are no target.",
    )
    candidates: int | None = Field(
        10,
        ge=2,
        le=100,
        description="Titles to choose from: the target and, in proportion to their ratings, films that the "
        "user has not rated by then. Null: the title is asked for without a choice.",
    )
    min_rating: float = Field(4.0, ge=0.5, le=5, description="Least rating of a target, in stars.")
    min_ratings: int = Field(20, ge=2, description="Users with fewer ratings are left out.")
    prompts_per_user: int = Field(4, ge=1, description="Most training prompts of a user, drawn at random.")
    eval_prompts_per_user: int = Field(1, ge=1, description="Most held-out prompts of a user.")
    max_users: int | None = Field(
        10_000,
        ge=1,
        description="Most users, drawn at random; their 50,000 prompts are more than one GPU trains on in a "
        "month. Null: all who have a target, of 25M and 32M a million prompts, for which `prepare` needs "
        "some 30 GB of memory.",
    )
    holdout: Literal["last", "cut"] = Field(
        "last",
        description="`last`: every user's last targets are held out. `cut`: everyone's first ones after one "
        "moment; training sees only what came before it.",
    )
    cut: float = Field(
        0.9, gt=0, lt=1, description="Share of all ratings before that moment, with `holdout: cut`."
    )
    tags: int = Field(20, ge=0, description="Tags in profiles: those that most films have. 0: genres only.")


class GoodreadsSource(Section):
    """Goodreads reviews of the UCSD Book Graph: write the review that a reader of that rating would.

    A prompt has the rating, the book's title and description where `books_path` is given, and earlier reviews
    of the same reader; the review itself is in the column `reference`, beside `rating` and `title`. Rows name
    as preference group the rating ('4 stars'). Every reader's last review is held out where they have two.
    Lines are read one after the other; only the sampled ones stay in memory.
    """

    type: Literal["goodreads"] = "goodreads"
    path: PathText = Field(
        description="`goodreads_reviews_*.json.gz`: file or glob pattern, from the recipe's folder. "
        "`goodreads_interactions_*.json.gz` are read too; their reviews may break off."
    )
    books_path: PathText | None = Field(
        None, description="`goodreads_books_*.json.gz`. Null: prompts name no title and no description."
    )
    max_rows: int | None = Field(
        20_000, ge=1, description="Reviews used, drawn reader by reader with all of theirs. Null: all."
    )
    min_words: int = Field(10, ge=1, description="Shorter reviews are left out.")
    max_words: int = Field(200, ge=1, description="Longer reviews are left out.")
    earlier_reviews: int = Field(
        2, ge=0, le=10, description="Most earlier reviews of the reader that a prompt shows, the latest ones."
    )
    description_words: int = Field(
        80, ge=0, description="Words of the book's description in a prompt; the rest is cut off."
    )
