"""A Bradley-Terry model of picks: what all users share, and how each differs from that.

P(user u prefers answer a to b) = 1 / (1 + exp(-(w + v_u) · (x_a - x_b))), with the standardised features x.
w and v_u have Laplace priors: a person goes by few things, and a user with few picks is like the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

COST_OUTSIDE = 1.0
"""Of one standard deviation of a feature outside of its range, in standard deviations of the utility."""
PRIOR_SCALE = 0.2
"""Of the Laplace priors of the entries of w and of v_u, for features of variance 1."""
OTHERS = ""
FOLDS, FEW_FOLDS = 10, 5
FLIPS, FEW_FLIPS = 99, 19
"""How often one's picks are drawn anew by a coin, to see what is predicted of picks without a taste."""
FOLDED_FINELY = 250
"""Picks up to which there are so many folds and flips; with more, fewer tell as much."""
MOST_JUDGED = 500
"""The latest picks of a user, and as many of all others, by which it is told whether the user has a taste."""
LEAST_PICKS = 10
"""Picks, ties not counted, from which on a taste may be told from chance."""
LUCK = 20
"""Picks by a coin seem to have a taste once in so many times."""


@dataclass(frozen=True)
class Comparisons:
    """Picks as numbers: features of the first and the second answer, and what the first one won (1, 0, 1/2).

    `users_N` says whose pick each is; OTHERS are people of whom only what is shared is learnt. Picks with the
    same number in `pairs_N` are between the same two answers; without it, no two are.
    """

    users_N: tuple[str, ...]
    first_N_F: Floats
    second_N_F: Floats
    first_share_N: Floats
    pairs_N: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return len(self.users_N)


@dataclass(frozen=True)
class Predictability:
    """How well one's picks are predicted by a model that has not seen them.

    `right` of the `judged` picks are predicted. Ties have no right answer, and are picks that are not judged.
    If a coin had picked between the same answers, `by_luck` is the interval of how many would be predicted:
    once in LUCK times the upper end or more, and as often the lower end or fewer. No binomial interval tells
    this: predictions that share their picks are right together.
    """

    picks: int
    judged: int
    right: float
    by_luck: tuple[float, float]

    @property
    def accuracy(self) -> float:
        return self.right / self.judged if self.judged else 0.0

    @property
    def better_than_chance(self) -> bool:
        return self.judged >= LEAST_PICKS and self.right > self.by_luck[1]


@dataclass(frozen=True)
class Model:
    """`weights` by user, on features that are standardised by `mean_F` and `scale_F` and then clipped to the
    user's `ranges`, from the lower to the upper ends.

    A range ends where the answers end that were picked from; on the side that the user likes, where those end
    that the user has picked at least twice: who likes it short, but has not picked single words, does not
    want them.
    `spread`: the deviation of a user's utility over the answers, at least one of which differs.
    """

    mean_F: Floats
    scale_F: Floats
    ranges: Mapping[str, tuple[Floats, Floats]]
    weights: Mapping[str, Floats]
    spread: Mapping[str, float]

    def contributions(self, user: str, features_N_F: Floats) -> Floats:
        """What each feature adds to the user's utility, in deviations of it; 0 is the mean of the answers.

        Outside of its range a feature costs what it is outside. Nobody has said what such answers are worth,
        and without a cost training would run away along a feature: from short answers to none at all.
        """
        standardised_N_F = (features_N_F - self.mean_F) / self.scale_F
        inside_N_F = np.clip(standardised_N_F, *self.ranges[user])
        liked_N_F = inside_N_F * self.weights[user] / self.spread[user]
        return liked_N_F - COST_OUTSIDE * np.abs(standardised_N_F - inside_N_F)


def fit(comparisons: Comparisons) -> Model:
    """The model of all picks. A feature that is the same in all answers has weight 0."""
    answers_A_F = np.concatenate([comparisons.first_N_F, comparisons.second_N_F])
    mean_F, deviation_F = answers_A_F.mean(axis=0), answers_A_F.std(axis=0)
    scale_F = np.where(deviation_F > 1e-9, deviation_F, np.inf)
    standardised_A_F = (answers_A_F - mean_F) / scale_F
    differences_N_F = np.subtract(*np.split(standardised_A_F, 2))
    shares_N = comparisons.first_share_N
    weights = _weights(comparisons.users_N, differences_N_F, shares_N)
    users_A = np.tile(np.array(comparisons.users_N, dtype=object), 2)
    # Of a tie both answers are liked.
    liked_A = np.concatenate([shares_N >= 0.5, shares_N <= 0.5])
    ranges = {}
    for user, weights_F in weights.items():
        liked_L_F = np.sort(standardised_A_F[liked_A & (users_A == user)], axis=0)
        # The second one, as a single pick may be a mistake.
        place = min(1, len(liked_L_F) - 1)
        low_F = np.where(weights_F < 0, liked_L_F[place], standardised_A_F.min(axis=0))
        high_F = np.where(weights_F > 0, liked_L_F[-1 - place], standardised_A_F.max(axis=0))
        ranges[user] = low_F, high_F
    spread = {user: float((standardised_A_F @ found).std()) for user, found in weights.items()}
    return Model(
        mean_F,
        scale_F,
        ranges,
        weights,
        # Without a weight every answer is worth the same.
        {user: found if found > 1e-9 else 1.0 for user, found in spread.items()},
    )


def predictability(comparisons: Comparisons) -> dict[str, Predictability]:
    """For each user: their picks by a model of all other picks, and the same of picks by a coin."""
    answers_A_F = np.concatenate([comparisons.first_N_F, comparisons.second_N_F])
    deviation_F = answers_A_F.std(axis=0)
    scale_F = np.where(deviation_F > 1e-9, deviation_F, np.inf)
    differences_N_F = (comparisons.first_N_F - comparisons.second_N_F) / scale_F
    users_N = np.array(comparisons.users_N, dtype=object)
    pairs_N = np.arange(len(users_N)) if comparisons.pairs_N is None else np.array(comparisons.pairs_N)
    found = {}
    for user in dict.fromkeys(comparisons.users_N):
        if user == OTHERS:
            continue
        own, others = np.flatnonzero(users_N == user)[-MOST_JUDGED:], np.flatnonzero(users_N != user)
        used = np.concatenate([own, others[-MOST_JUDGED:]])
        found[user] = _against_a_coin(
            users_N[used], differences_N_F[used], comparisons.first_share_N[used], pairs_N[own]
        )
    return found


def _against_a_coin(
    users_N: NDArray[np.object_], differences_N_F: Floats, shares_N: Floats, pairs_P: NDArray[np.int_]
) -> Predictability:
    """The first P of the N picks are the user's; the others' are never left out.

    A permutation test: without a taste each pick might as well be the other one. Picks between the same
    two answers are one piece of evidence: they are left out together, and a coin turns them round together.
    """
    many = len(users_N) > FOLDED_FINELY
    folds, flips = (FEW_FOLDS, FEW_FLIPS) if many else (FOLDS, FLIPS)
    own = len(pairs_P)
    judged_P = shares_N[:own] != 0.5
    judged = int(judged_P.sum())
    # Numbered by their judged pairs first, so that the folds are about equally large.
    order = {pair: place for place, pair in enumerate(dict.fromkeys([*pairs_P[judged_P], *pairs_P]))}
    places_P = np.array([order[pair] for pair in pairs_P])

    def predicted(turned_by_pair: NDArray[np.bool_]) -> float:
        shares = shares_N.copy()
        shares[:own] = np.where(turned_by_pair[places_P], 1 - shares[:own], shares[:own])
        right = 0.0
        for fold in range(min(folds, len(order))):
            left_out_P = places_P % folds == fold
            kept = np.ones(len(users_N), dtype=bool)
            kept[:own] = ~left_out_P
            asked = np.flatnonzero(left_out_P & judged_P)
            weights = _weights(users_N[kept].tolist(), differences_N_F[kept], shares[kept]).get(users_N[0])
            utility = differences_N_F[asked] @ weights if weights is not None else np.zeros(len(asked))
            # No difference is a coin.
            right += float(np.where(utility == 0, 0.5, (utility > 0) == (shares[asked] == 1)).sum())
        return right

    right, by_luck = predicted(np.zeros(len(order), dtype=bool)), (0.0, float(judged))
    if judged >= LEAST_PICKS:
        rng = np.random.default_rng(0)
        lucky = sorted(predicted(rng.random(len(order)) < 0.5) for _ in range(flips))
        # The picks themselves are one of the draws.
        tail = (flips + 1) // LUCK
        by_luck = lucky[tail - 1], lucky[-tail]
    return Predictability(own, judged, right, by_luck)


def _weights(users_N: Sequence[str], differences_N_F: Floats, shares_N: Floats) -> dict[str, Floats]:
    """w + v_u of each user, by logistic regression with an L1 penalty and without an intercept."""
    if not len(users_N):
        return {}
    from sklearn.linear_model import LogisticRegression

    users = sorted(set(users_N) - {OTHERS})
    features = differences_N_F.shape[1]
    design_N_D = np.zeros((len(users_N), features * (1 + len(users))))
    design_N_D[:, :features] = differences_N_F
    for place, user in enumerate(users, start=1):
        rows = [row for row, of_row in enumerate(users_N) if of_row == user]
        design_N_D[rows, features * place : features * (place + 1)] = differences_N_F[rows]
    # Each pick stands twice, the second time with its answers exchanged: both outcomes occur, equally often.
    # A tie is half a win each way.
    model = LogisticRegression(
        C=PRIOR_SCALE, l1_ratio=1, solver="liblinear", fit_intercept=False, tol=1e-6, max_iter=1000,
        random_state=0,
    )  # fmt: skip
    rows_M_D = np.concatenate([design_N_D, -design_N_D, design_N_D, -design_N_D])
    outcomes_M = np.repeat([1, 0, 0, 1], len(users_N))
    shares_M = np.concatenate([shares_N, shares_N, 1 - shares_N, 1 - shares_N]) / 2
    used = shares_M > 0
    model.fit(rows_M_D[used], outcomes_M[used], sample_weight=shares_M[used])
    coefficients_D = model.coef_[0]
    return {
        user: coefficients_D[:features] + coefficients_D[features * place : features * (place + 1)]
        for place, user in enumerate(users, start=1)
    }
