"""Which problems an iteration may draw from, by the iteration and by what was sampled before it.

A curriculum is called with the training problems, the iteration (from 1), and `earlier`, which
gives the rollouts that the generate phase of an iteration wrote. It depends on nothing else, so
that a resumed run draws the same problems.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from star_exp.errors import UserError, did_you_mean
from star_exp.records import Problem, Rollout
from star_exp.store import by_problem

Earlier = Callable[[int], Sequence[Rollout]]


@dataclass(frozen=True)
class AllProblems:
    """All of them in every iteration, as in STaR, Algorithm 1."""

    def __call__(
        self, problems: Sequence[Problem], iteration: int, earlier: Earlier
    ) -> Sequence[Problem]:
        return problems


@dataclass(frozen=True)
class ByGroup:
    """Those whose `group`, an integer, is at most `first` + `added` * (iteration - 1).

    (digits, 2, 1): sums of up to 2 digits, then of up to 3, ... STaR brings longer sums into a run
    that has learned the shorter (section 4.3, figure 5); to do it in every iteration is ours.
    Makes every problem of a lazy pool: 50,000 sums take one or two seconds.
    """

    group: str = "digits"
    first: int = 2
    added: int = 1

    def __call__(
        self, problems: Sequence[Problem], iteration: int, earlier: Earlier
    ) -> Sequence[Problem]:
        most = self.first + self.added * (iteration - 1)
        values = [(problem, self._value(problem)) for problem in problems]
        chosen = [problem for problem, value in values if value <= most]
        if not chosen:
            least = min((value for _, value in values), default=None)
            raise UserError(
                f"iteration {iteration}: no training problem has {self.group} <= {most}; the least "
                f"that there is is {least}. Set data.curriculum.first to it or to more"
            )
        return chosen

    def _value(self, problem: Problem) -> int:
        if self.group not in problem.groups:
            there = did_you_mean(self.group, problem.groups) if problem.groups else "it is in none"
            raise UserError(
                f"data.curriculum.group={self.group!r}: problem {problem.id} is in no such group; "
                f"{there}. Set data.curriculum.group, or leave the curriculum out"
            )
        value = problem.groups[self.group]
        try:
            return int(value)
        except ValueError:
            raise UserError(
                f"data.curriculum.group={self.group!r}: problem {problem.id} has the value "
                f"{value!r} in it; expected an integer"
            ) from None


@dataclass(frozen=True)
class ByPassRate:
    """Those whose pass rate, when they were last sampled, lies in [low, high], and the unsampled.

    Leaves out what is always solved (high < 1) or never (low > 0). What is left out isn't sampled
    again and would stay out for good, whatever the model learns or forgets. Rollouts whose check
    failed count for nothing.

    remembered: a rate is forgotten after so many iterations, and its problem drawn again; None:
        never, and then rollouts are read back to the iteration that sampled the last problem.
    """

    low: float = 0.0
    high: float = 1.0
    remembered: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high <= 1:
            raise ValueError(
                f"data.curriculum.low={self.low} and data.curriculum.high={self.high}: expected "
                "0 <= low <= high <= 1"
            )
        if self.remembered is not None and self.remembered < 1:
            raise ValueError(
                f"data.curriculum.remembered={self.remembered}: expected at least 1, or null"
            )

    def __call__(
        self, problems: Sequence[Problem], iteration: int, earlier: Earlier
    ) -> Sequence[Problem]:
        problems = list(problems)  # those of a lazy pool are made once
        rates = self._rates({problem.id for problem in problems}, iteration, earlier)
        chosen = [p for p in problems if self.low <= rates.get(p.id, self.low) <= self.high]
        if not chosen:
            raise UserError(
                f"iteration {iteration}: none of the {len(problems)} training problems had a pass "
                f"rate in [{self.low}, {self.high}] when last sampled "
                f"({sum(rate < self.low for rate in rates.values())} less, "
                f"{sum(rate > self.high for rate in rates.values())} more). Widen "
                "data.curriculum.low and high, forget rates sooner (data.curriculum.remembered), "
                "or take more samples (callbacks.generate.samples): of one, all rates are 0 or 1"
            )
        return chosen

    def _rates(self, wanted: set[str], iteration: int, earlier: Earlier) -> dict[str, float]:
        """The last known pass rate of the wanted problems, by id."""
        rates: dict[str, float] = {}
        oldest = 1 if self.remembered is None else max(1, iteration - self.remembered)
        for before in range(iteration - 1, oldest - 1, -1):
            if len(rates) == len(wanted):
                break
            judged = [rollout for rollout in earlier(before) if rollout.failed is None]
            for problem, rollouts in by_problem(judged).items():
                if problem in wanted and problem not in rates:
                    rates[problem] = fmean(rollout.correct for rollout in rollouts)
        return rates
