"""Which rollouts are trained on: filters list[Rollout] -> list[Rollout], applied in order.

What is kept stays in its order. A filter that goes by how many samples of a problem are right
(Agreement, Difficulty) must see every right one, so it stands in front of those that thin them out
(Distinct, AtMost, ...), and best in front of Correct.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from star_exp.equations import annotations, equations, holds
from star_exp.errors import UserError
from star_exp.records import Rollout

GRAM = 3  # tokens


@dataclass(frozen=True)
class Correct:
    """Those that reach the right answer, ended by themselves (STaR, Algorithm 1, lines 5 and 6)."""

    def __call__(self, rollouts: list[Rollout]) -> list[Rollout]:
        return [rollout for rollout in rollouts if rollout.correct and not rollout.truncated]


@dataclass(frozen=True)
class Rewarded:
    """Those with a reward above `threshold` (B-STaR, section 2.3 and appendix A.1: r > tau).

    The reward is 1 for the right answer, plus what a reward model gave (config group `reward`), in
    [-1, 1]: below a threshold of 1 it may be high enough for a wrong answer. Without a reward model
    those above 0 are the right ones. One whose check failed has no reward.

    threshold: chosen at each iteration where there is a Balance phase.
    """

    threshold: float = 0.0

    def __call__(self, rollouts: list[Rollout]) -> list[Rollout]:
        return [
            rollout
            for rollout in rollouts
            if rollout.failed is None and rollout.reward > self.threshold
        ]


@dataclass(frozen=True)
class TopUp:
    """The same, the best of each problem, and only as many as are wanted: B-STaR's released code
    (determine_hyper.py, metric_modiacc_auto.py), of which the paper says nothing.

    At most m of each problem, the best-rewarded and of each text one, with the smallest m that
    gives `per_problem` a problem on average over all that were sampled; nothing is cut off behind
    that. For it to see all that was sampled it stands first.

    The released code counts the solution that came with a problem as one more candidate, of reward
    1: +callbacks.solutions.every=true has them in every iteration.
    """

    threshold: float = 0.0
    per_problem: float = 6.0  # 67,500 of 11,500 problems
    most: int = 64

    def __post_init__(self) -> None:
        if self.per_problem <= 0 or self.most < 1:
            raise ValueError(
                f"TopUp(per_problem={self.per_problem}, most={self.most}): expected more than 0, "
                "and at least 1"
            )

    def __call__(self, rollouts: list[Rollout]) -> list[Rollout]:
        target = self.per_problem * len({rollout.problem for rollout in rollouts})
        above = Distinct()(Rewarded(self.threshold)(rollouts))
        ranks, seen = {}, Counter()
        for rollout in sorted(above, key=lambda rollout: -rollout.reward):
            ranks[id(rollout)] = seen[rollout.problem]
            seen[rollout.problem] += 1
        sizes = (sum(min(number, m) for number in seen.values()) for m in range(1, self.most + 1))
        m = next((m for m, size in enumerate(sizes, 1) if size >= target), self.most)
        return [rollout for rollout in above if ranks[id(rollout)] < m]


@dataclass(frozen=True)
class Agreement:
    """All rollouts of the problems of which more than `share` of the judged samples are right.

    Against chance hits where there are few choices: of two, every other wrong rationale ends in the
    right answer (STaR, section 6). Each phase is judged apart, for a hint makes samples agree.
    Correct is to follow, and takes the right ones. Fewer than `least` samples say nothing of a
    problem: UserError where a phase drew no more, and where the check failed for so many that no
    more are left, the problem is left out.

    phases: those that are judged; rollouts of others, which no model sampled, pass.
    """

    share: float = 0.5
    least: int = 2
    phases: Sequence[str] = ("generate", "rationalize")

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1 or self.least < 2:
            raise ValueError(
                f"Agreement(share={self.share}, least={self.least}): expected a share in [0, 1) "
                "and at least 2 samples"
            )

    def __call__(self, rollouts: list[Rollout]) -> list[Rollout]:
        for (iteration, phase), samples in _samples(rollouts).items():
            if samples < self.least and phase in self.phases:
                raise UserError(
                    f"iteration {iteration}: the filter Agreement found {samples} sample(s) of a "
                    f"problem in {phase} and needs {self.least} or more to compare; raise "
                    f"callbacks.{phase}.samples, or leave Agreement out of data.filters"
                )
        rates = _pass_rates(rollouts, self.least)
        return [
            rollout
            for rollout in rollouts
            if rollout.phase not in self.phases
            or rates.get((rollout.iteration, rollout.phase, rollout.problem), 0.0) > self.share
        ]


@dataclass(frozen=True)
class Difficulty:
    """All rollouts of the problems whose pass rate in `generate` lies in [least, most].

    A rationalized one goes by that rate too: how hard its problem is without a hint.
    """

    least: float = 0.0
    most: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.least <= self.most <= 1:
            raise ValueError(
                f"Difficulty(least={self.least}, most={self.most}): expected "
                "0 <= least <= most <= 1"
            )

    def __call__(self, rollouts: list[Rollout]) -> list[Rollout]:
        rates = _pass_rates(rollouts)
        return [
            rollout
            for rollout in rollouts
            if self.least
            <= rates.get((rollout.iteration, "generate", rollout.problem), 0.0)
            <= self.most
        ]


@dataclass(frozen=True)
class EquationsHold:
    """Those in which the sides of every annotation <<48/2=24>> differ by less than `tolerance`.

    The check of RFT (Yuan et al. 2023, arXiv:2308.01825; collect_rejection_sampling.py). A rollout
    without annotations passes. What can't be read as numbers and + - * / ( ), is longer than 200
    characters a side, or divides by zero does not hold. Departures: 1,000 and 50% are read, of
    a=b=c all sides are compared, and nothing is run as Python, so that 7//2 and 2**3 don't hold.
    """

    tolerance: float = 1e-3

    def __call__(self, rollouts: list[Rollout]) -> list[Rollout]:
        return [
            rollout
            for rollout in rollouts
            if all(holds(equation, self.tolerance) for equation in annotations(rollout.text))
        ]


@dataclass(frozen=True)
class Distinct:
    """The first of those with the same question and the same text, whatever their problems' ids."""

    def __call__(self, rollouts: list[Rollout]) -> list[Rollout]:
        first = {}
        for rollout in rollouts:
            first.setdefault((rollout.question, rollout.text), rollout)
        return list(first.values())


@dataclass(frozen=True)
class DistinctEquations:
    """One of those with the same question and the same equations: RFT's rule, behind Correct.

    Equations are the annotations <<48/2=24>>, without spaces; where there are none, what looks like
    an equation in the text; where there is none either, the text. (RFT takes all rationales without
    annotations for the same one.)

    keep: the first, or the farthest, which RFT keeps: a later one takes the place of the kept one
        if its edit distances, in characters, to the others kept of the question sum up to more.
        7,500 problems with 50 right samples of 5 kinds take five minutes, the first a second.
    """

    keep: Literal["first", "farthest"] = "first"

    def __call__(self, rollouts: list[Rollout]) -> list[Rollout]:
        choose = KEEP[self.keep]
        return _of_each(
            rollouts,
            lambda rollout: rollout.question,
            lambda alike: choose([rollout.text for rollout in alike]),
        )


@dataclass(frozen=True)
class AtMost:
    """At most `per_problem` rollouts of a problem, the first ones."""

    per_problem: int

    def __post_init__(self) -> None:
        _check_most(self)

    def __call__(self, rollouts: list[Rollout]) -> list[Rollout]:
        seen: Counter[str] = Counter()
        kept = []
        for rollout in rollouts:
            seen[rollout.problem] += 1
            if seen[rollout.problem] <= self.per_problem:
                kept.append(rollout)
        return kept


@dataclass(frozen=True)
class Diverse:
    """At most `per_problem` rollouts of a problem: the first, then always the farthest from those.

    That is the one whose nearest among the chosen is the farthest away, the earlier of two
    (Gonzalez 1985); distance is 1 - Jaccard index of the sets of 3 tokens in a row. The first is
    the first sampled, and not the likeliest, which would favour the short and common. Half a
    minute for 4 of 100 samples of 7,500 problems.
    """

    per_problem: int

    def __post_init__(self) -> None:
        _check_most(self)

    def __call__(self, rollouts: list[Rollout]) -> list[Rollout]:
        return _of_each(
            rollouts,
            lambda rollout: rollout.problem,
            lambda alike: _spread([_grams(each.tokens) for each in alike], self.per_problem),
        )


def _check_most(filter_: AtMost | Diverse) -> None:
    if filter_.per_problem < 1:
        name = type(filter_).__name__
        raise ValueError(f"{name}(per_problem={filter_.per_problem}): expected at least 1")


def _samples(rollouts: Iterable[Rollout]) -> dict[tuple[int, str], int]:
    """How many samples of a problem each (iteration, phase) drew: equally many of each problem.

    Told by their numbers and not by counting, for some may be gone: cut off, or wrong.
    """
    samples: dict[tuple[int, str], int] = {}
    for rollout in rollouts:
        key = rollout.iteration, rollout.phase
        samples[key] = max(samples.get(key, 0), rollout.sample + 1)
    return samples


def _pass_rates(rollouts: Sequence[Rollout], least: int = 1) -> dict[tuple[int, str, str], float]:
    """Share of right ones among the judged samples of each (iteration, phase, problem).

    Those not here were not right. Where fewer than `least` could be judged, there is no rate.
    """
    samples = _samples(rollouts)
    right: Counter[tuple[int, str, str]] = Counter()
    failed: Counter[tuple[int, str, str]] = Counter()
    for rollout in rollouts:
        key = rollout.iteration, rollout.phase, rollout.problem
        right[key] += rollout.correct
        failed[key] += rollout.failed is not None
    judged = {key: samples[key[:2]] - failed[key] for key in right}
    return {key: right[key] / number for key, number in judged.items() if number >= least}


def _of_each(
    rollouts: Sequence[Rollout],
    key: Callable[[Rollout], str],
    choose: Callable[[Sequence[Rollout]], list[int]],
) -> list[Rollout]:
    """What `choose` picks, by index, of the rollouts with the same key, in the order of all."""
    groups: dict[str, list[int]] = {}
    for place, rollout in enumerate(rollouts):
        groups.setdefault(key(rollout), []).append(place)
    kept = [
        places[index]
        for places in groups.values()
        for index in choose([rollouts[place] for place in places])
    ]
    return [rollouts[place] for place in sorted(kept)]


# Equations


def _first(texts: Sequence[str]) -> list[int]:
    """Of the texts with the same equations the first."""
    kept: dict[str, int] = {}
    for place, text in enumerate(texts):
        kept.setdefault(_key(text), place)
    return list(kept.values())


def _farthest(texts: Sequence[str]) -> list[int]:
    """Of the texts with the same equations the farthest from the others, as RFT goes about it."""
    kept: dict[str, int] = {}
    for place, text in enumerate(texts):
        key = _key(text)
        now = texts[kept.setdefault(key, place)]
        others = [texts[other] for theirs, other in kept.items() if theirs != key]
        if text != now and _summed_distance(text, others) > _summed_distance(now, others):
            kept[key] = place
    return list(kept.values())


KEEP = {"first": _first, "farthest": _farthest}


def _key(text: str) -> str:
    """The equations of a text in one line; the text if it has none."""
    return "|".join(equations(text)) or text


# Distances


def _summed_distance(text: str, others: Iterable[str]) -> int:
    return sum(edit_distance(text, other) for other in others)


@lru_cache(maxsize=1000)  # a text is compared with the same few again and again
def edit_distance(a: str, b: str) -> int:
    """The fewest characters to insert, delete or replace that make `b` of `a` (Levenshtein).

    A column of the table is one integer, a bit a row (Myers 1999, in the form of Hyyrö 2003): time
    grows with len(b) up to a few hundred characters: 0.2 ms for 260 of each.
    """
    if not a:
        return len(b)
    rows: dict[str, int] = {}
    for row, character in enumerate(a):
        rows[character] = rows.get(character, 0) | 1 << row
    everywhere, last = (1 << len(a)) - 1, 1 << len(a) - 1
    rises, falls, distance = everywhere, 0, len(a)  # from the row above, in the column so far
    for character in b:
        same = rows.get(character, 0)
        level = (((same & rises) + rises) ^ rises) | same | falls  # along the diagonal
        right_rises, right_falls = falls | ~(level | rises), level & rises  # along the row
        distance += bool(right_rises & last) - bool(right_falls & last)
        right_rises, right_falls = right_rises << 1 | 1, right_falls << 1
        rises = (right_falls | ~(level | right_rises)) & everywhere
        falls = right_rises & level & everywhere
    return distance


def _grams(tokens: Sequence[int]) -> frozenset[tuple[int, ...]]:
    """All GRAM tokens in a row; those there are if there are fewer. Never empty."""
    starts = range(max(1, len(tokens) - GRAM + 1))
    return frozenset(tuple(tokens[start : start + GRAM]) for start in starts)


def _spread(grams: Sequence[frozenset], number: int) -> list[int]:
    """The first, then as long as there are fewer than `number` the farthest from those chosen."""
    chosen: list[int] = []
    nearest = [1.0] * len(grams)  # distance to the nearest chosen; below 0: chosen
    while len(chosen) < min(number, len(grams)):
        new = max(range(len(grams)), key=nearest.__getitem__)
        chosen.append(new)
        nearest = [
            min(d, _distance(grams[new], other)) for d, other in zip(nearest, grams, strict=True)
        ]
        nearest[new] = -1.0
    return chosen


def _distance(a: frozenset, b: frozenset) -> float:
    """1 - Jaccard index, in [0, 1]; neither may be empty."""
    shared = len(a & b)
    return 1 - shared / (len(a) + len(b) - shared)
