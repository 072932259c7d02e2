"""n-digit arithmetic, the synthetic task of STaR (section 4.2, figure 3), made on the spot.

One problem in the two formats that a rationale can take here:

    scratchpad, character by character the paper's         compact, the default for tiny models

    Input:                                                 624+259=
    6 2 4 + 2 5 9                                          4931 2580 6280 #883
    Target:
    <scratch>                                              (ones: 4 and 9 give digit 3, carry 1;
    6 2 4 + 2 5 9 , C: 0                                   tens: 2 and 5 give digit 8, carry 0;
    2 + 5 , 3 C: 1                                         hundreds: 6 and 2 give 8, carry 0;
    6 + 2 , 8 3 C: 0                                       after # the answer)
    , 8 8 3 C: 0
    0 8 8 3
    </scratch>
    8 8 3

With `swapped` the two digits of a column stand in either order in the seed rationales, 4931 or
9431, drawn at random: then a sum of n digits has 2**n right rationales to explore.

The hint of rationalization shows the answer and nothing else: `Target: 8 8 3` as in the paper, or
`883:624+259=`, in front so that the distances from the rationale back to the operands, which a tiny
model goes by, are the same with and without it.

Problem i of a split is a pure function of (seed, split, i). Which split a sum may appear in is
decided by a hash of the sum itself, and 2+6 goes where 6+2 goes: no dev or test problem is ever in
train, whatever the seeds and sizes.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import accumulate
from operator import and_
from random import Random
from typing import Literal

from star_exp.records import Problem
from star_exp.seeds import derive
from star_exp.tasks.base import LINE, WORD, Exemplar, Task, step_ends, step_texts

DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
HELD_OUT = {"dev": range(0, 15), "test": range(15, 30)}  # of 100 hash buckets; train has the rest


@dataclass(frozen=True)
class Step:
    """One column (or, in a product, one row) of the written method.

    pair: what is combined; written: the digit(s) written down; carry: what goes on to the next.
    """

    pair: tuple[str, str]
    written: str
    carry: str


@dataclass(frozen=True)
class Sum:
    """An expression `left operator right`, as numerals, with the steps that lead to its answer."""

    left: str
    operator: str
    right: str
    answer: str
    steps: tuple[Step, ...]

    def __str__(self) -> str:
        return f"{self.left}{self.operator}{self.right}"


@dataclass(frozen=True)
class Arithmetic(Task):
    """
    format: how prompt and rationale are written, see the head of this file.
    min_digits, max_digits: operands have equally many digits, uniformly one of these lengths.
    operators: some of "+-*"; the larger operand comes first in a difference, so none is negative.
    base: of the numerals, 2 to 36.
    swapped: whether a column's digits stand in either order in the seed rationales; for sums alone.
    train_size, dev_size, test_size, ood_size: problems of each split, spread evenly over lengths;
        train is a pool that iterations draw from. dev, test and ood hold no problem twice, so they
        are smaller where there are not that many (there are 81 sums of one digit in all).
    ood_digits: the out-of-distribution split has this many more lengths, beyond max_digits.
    """

    format: Literal["compact", "scratchpad"] = "compact"
    min_digits: int = 1
    max_digits: int = 5
    operators: str = "+"
    base: int = 10
    swapped: bool = False
    train_size: int = 50_000
    dev_size: int = 500
    test_size: int = 2500
    ood_size: int = 500
    ood_digits: int = 1
    seed: int = 0

    stop = ("\n\n",)

    def __post_init__(self) -> None:
        if not 1 <= self.min_digits <= self.max_digits:
            raise ValueError(
                f"task.min_digits={self.min_digits} and task.max_digits={self.max_digits} clash: "
                "expected 1 <= min_digits <= max_digits"
            )
        if not self.operators or set(self.operators) - set("+-*"):
            raise ValueError(f"task.operators={self.operators!r}: expected some of '+-*'")
        if len(set(self.operators)) < len(self.operators):
            raise ValueError(f"task.operators={self.operators!r} names an operator twice")
        if self.swapped and self.operators != "+":
            raise ValueError(
                f"task.swapped=true and task.operators={self.operators!r} clash: the digits of a "
                "column can stand in either order in sums alone; expected '+'"
            )
        if not 2 <= self.base <= len(DIGITS):
            raise ValueError(f"task.base={self.base}: expected 2 to {len(DIGITS)}")
        if self.format not in FORMATS:
            raise ValueError(f"task.format={self.format!r}: expected one of {sorted(FORMATS)}")
        for name in ("train_size", "dev_size", "test_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"task.{name}={getattr(self, name)}: expected at least 1")
        if self.ood_digits < 0 or self.ood_size < 0:
            raise ValueError("task.ood_digits and task.ood_size must not be negative")

    def problems(self, split: str) -> Sequence[Problem]:
        if split == "train":
            return Pool(self, "train", self.train_size)
        sizes = {"dev": self.dev_size, "test": self.test_size, "ood": self.ood_size}
        if split not in sizes:
            raise ValueError(f"arithmetic has no split {split!r}; it has train, dev, test and ood")
        if not self._lengths(split):
            return []
        distinct: dict[str, Problem] = {}
        for index in range(sizes[split]):
            problem = self.problem(split, index)
            distinct.setdefault(problem.question, problem)
        return list(distinct.values())

    def problem(self, split: str, index: int) -> Problem:
        """Problem `index` of a split: a pure function of the settings, however many there are."""
        lengths = self._lengths(split)
        digits = lengths[index % len(lengths)]
        operator = self.operators[index // len(lengths) % len(self.operators)]
        sum_ = self._draw(split, digits, operator, Random(derive(self.seed, split, index)))
        groups = {"digits": str(digits)}
        if len(self.operators) > 1:
            groups["operator"] = operator
        return Problem(f"{split}/{index}", str(sum_), sum_.answer, groups)

    def prompt(self, problem: Problem, hint: bool = False) -> str:
        return self._format.prompt(self._parse(problem), hint)

    def extract(self, completion: str) -> str | None:
        return self._format.extract(completion)

    def steps(self, completion: str) -> list[int]:
        return step_ends(completion, self._format.step)

    def equations(self, completion: str) -> list[str]:
        """The steps before the answer, which are equations without an equals sign: 4+9=13 is 4931,
        and 9431 another one."""
        return ["".join(step.split()) for step in self._texts(completion)[:-1]]

    def right_steps(self, problem: Problem, completion: str) -> list[bool]:
        """Step by step the text of a reference; what goes on behind its end is wrong."""
        sum_ = self._parse(problem)
        rationales = [self._format.rationale(each) for each in (sum_, _swapped(sum_, lambda: True))]
        references = [self._texts(text) for text in rationales[: 1 + self.swapped]]
        right = {(place, step) for each in references for place, step in enumerate(each)}
        written = enumerate(self._texts(completion))
        return [*accumulate((step in right for step in written), and_)]

    def _texts(self, text: str) -> list[str]:
        return step_texts(text, self.steps(text))

    def direct(self, problem: Problem) -> str:
        return self._format.direct(problem.answer)

    def answer_lead(self) -> str:
        return self._format.lead

    def rationale(self, problem: Problem) -> str:
        """The reference rationale: what seed rationales are, and nothing that the loop sees."""
        sum_ = self._parse(problem)
        if self.swapped:
            rng = Random(derive("swapped", problem.id, problem.question))
            sum_ = _swapped(sum_, lambda: rng.random() < 0.5)
        return self._format.rationale(sum_)

    def exemplars(self, per_group: int) -> list[Exemplar]:
        groups = len(self._lengths("train")) * len(self.operators)
        problems = [self.problem("seed", index) for index in range(per_group * groups)]
        return [Exemplar(problem, self.rationale(problem)) for problem in problems]

    def longest_completion(self) -> int:
        lengths = [*self._lengths("train"), *self._lengths("ood")]
        nines, least = DIGITS[self.base - 1] * max(lengths), "1" + "0" * (max(lengths) - 1)
        sums = [
            solve(nines, operator, right, self.base)  # nines - least has the longest difference
            for operator in self.operators
            for right in (nines, least)
        ]
        return max(len(self._format.rationale(sum_)) for sum_ in sums)

    @cached_property
    def _format(self) -> "Format":
        return FORMATS[self.format]

    def _lengths(self, split: str) -> range:
        if split == "ood":
            return range(self.max_digits + 1, self.max_digits + 1 + self.ood_digits)
        return range(self.min_digits, self.max_digits + 1)

    def _parse(self, problem: Problem) -> Sum:
        operator = next(mark for mark in "+-*" if mark in problem.question)
        left, _, right = problem.question.partition(operator)
        return solve(left, operator, right, self.base)

    def _draw(self, split: str, digits: int, operator: str, rng: Random) -> Sum:
        """A sum of this length whose hash allows it in `split`."""
        low, high = self.base ** (digits - 1), self.base**digits - 1
        if high - low < 100:  # few enough to be listed: a split may have none of them
            left, right = rng.choice(_pairs(split, digits, operator, self.base))
        else:
            while True:
                left, right = _ordered(rng.randint(low, high), rng.randint(low, high), operator)
                if _belongs(split, left, right, operator, self.base):
                    break
        return solve(numeral(left, self.base), operator, numeral(right, self.base), self.base)


def numeral(value: int, base: int) -> str:
    """A non-negative integer in `base`: numeral(255, 16) == "ff"."""
    digits = ""
    while value or not digits:
        value, digit = divmod(value, base)
        digits = DIGITS[digit] + digits
    return digits


def solve(left: str, operator: str, right: str, base: int) -> Sum:
    """The sum with its steps, by the written method, least significant digit first."""
    method = {"+": _columns, "-": _columns, "*": _rows}[operator]
    value = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}[operator]
    answer = numeral(value(int(left, base), int(right, base)), base)
    return Sum(left, operator, right, answer, tuple(method(left, operator, right, base)))


def _columns(left: str, operator: str, right: str, base: int) -> list[Step]:
    """Addition with carries; subtraction with borrows, the carry being 1 where one is borrowed."""
    sign, carry, steps = (1 if operator == "+" else -1), 0, []
    for a, b in zip(reversed(left), reversed(right), strict=True):
        total = int(a, base) + sign * (int(b, base) + carry)
        carry = int(not 0 <= total < base)
        steps.append(Step((a, b), DIGITS[total % base], str(carry)))
    return steps


def _rows(left: str, operator: str, right: str, base: int) -> list[Step]:
    """Long multiplication: a row writes one digit of the product and carries the rest on."""
    rest, steps = 0, []
    for b in reversed(right):
        rest, digit = divmod(rest + int(left, base) * int(b, base), base)
        steps.append(Step((left, b), DIGITS[digit], numeral(rest, base)))
    return steps


def _swapped(sum_: Sum, swaps: Callable[[], bool]) -> Sum:
    """The sum with the digits of those columns in the other order that `swaps` says."""
    steps = [replace(step, pair=step.pair[::-1]) if swaps() else step for step in sum_.steps]
    return replace(sum_, steps=tuple(steps))


def _ordered(left: int, right: int, operator: str) -> tuple[int, int]:
    return (max(left, right), min(left, right)) if operator == "-" else (left, right)


def _belongs(split: str, left: int, right: int, operator: str, base: int) -> bool:
    if split == "ood":  # of lengths that no other split has
        return True
    key = (left, right) if operator == "-" else tuple(sorted((left, right)))
    bucket = derive("arithmetic", base, operator, *key) % 100
    held_out = next((name for name, share in HELD_OUT.items() if bucket in share), None)
    return held_out == (split if split in HELD_OUT else None)  # train and seed: neither


@lru_cache
def _pairs(split: str, digits: int, operator: str, base: int) -> list[tuple[int, int]]:
    """All operand pairs of this length that `split` may hold. ValueError if there are none."""
    numbers = range(base ** (digits - 1), base**digits)
    every = [(a, b) for a in numbers for b in numbers if (a, b) == _ordered(a, b, operator)]
    pairs = [pair for pair in every if _belongs(split, *pair, operator, base)]
    if not pairs:
        raise ValueError(
            f"of the {len(every)} problems with {digits} digit(s) and operator {operator} in "
            f"base {base} none falls into {split}; raise task.min_digits"
        )
    return pairs


@dataclass(frozen=True)
class Pool(Sequence[Problem]):
    """The problems of a split, each made when it is asked for."""

    task: "Arithmetic"
    split: str
    size: int

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int | slice):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self.size))]
        if not -self.size <= index < self.size:
            raise IndexError(f"problem {index} of {self.size}")
        return self.task.problem(self.split, index % self.size)


class Format(ABC):
    """How a sum is asked, reasoned about and answered, as text.

    lead: what precedes the answer; step: with what a step of the rationale begins.
    """

    lead: str
    step: re.Pattern[str]

    @abstractmethod
    def prompt(self, sum_: Sum, hint: bool) -> str: ...

    @abstractmethod
    def rationale(self, sum_: Sum) -> str: ...

    @abstractmethod
    def direct(self, answer: str) -> str: ...

    @abstractmethod
    def extract(self, completion: str) -> str | None: ...


class Compact(Format):
    """For each column: both digits, the digit written, the carry. Then # and the answer."""

    lead = "#"
    step = WORD  # a column, or the answer

    def prompt(self, sum_: Sum, hint: bool) -> str:
        return f"{sum_.answer}:{sum_}=" if hint else f"{sum_}="

    def rationale(self, sum_: Sum) -> str:
        columns = (f"{''.join(step.pair)}{step.written}{step.carry} " for step in sum_.steps)
        return "".join(columns) + self.direct(sum_.answer)

    def direct(self, answer: str) -> str:
        return f"#{answer}"

    def extract(self, completion: str) -> str | None:
        return completion.rpartition("#")[2].strip() or None if "#" in completion else None


class Scratchpad(Format):
    """The paper's, after Nye et al. 2021 (arXiv:2112.00114), for any number of digits."""

    lead = "\n</scratch>\n"
    step = LINE

    def prompt(self, sum_: Sum, hint: bool) -> str:
        return f"Input:\n{self._expression(sum_)}\nTarget:" + (
            f" {_spaced(sum_.answer)}" if hint else ""
        )

    def rationale(self, sum_: Sum) -> str:
        lines = [f"{self._expression(sum_)} , C: 0"]  # it stands for the first pair too
        written, carry = "", "0"
        for index, step in enumerate(sum_.steps):
            if index > 0:
                pair = f" {sum_.operator} ".join(map(_spaced, step.pair))
                lines.append(f"{pair} , {_spaced(written)} C: {_spaced(carry)}")
            written, carry = step.written + written, step.carry
        lines.append(f", {_spaced(written)} C: {_spaced(carry)}")
        lines.append(_spaced(carry + written))
        body = "\n".join(lines)
        return f"\n<scratch>\n{body}\n</scratch>{self.direct(sum_.answer)}"

    def direct(self, answer: str) -> str:
        return f"\n{_spaced(answer)}"

    def extract(self, completion: str) -> str | None:
        """The line after </scratch>, or the first line where there is no scratchpad.

        Spaces between digits are not judged; the released code compares the line exactly.
        """
        _, found, after = completion.partition("</scratch>")
        if "<scratch>" in completion and not found:
            return None
        lines = (after if found else completion).strip("\n").splitlines()
        return "".join(lines[0].split()) or None if lines else None

    @staticmethod
    def _expression(sum_: Sum) -> str:
        return f"{_spaced(sum_.left)} {sum_.operator} {_spaced(sum_.right)}"


def _spaced(numeral_: str) -> str:
    return " ".join(numeral_)


FORMATS: dict[str, Format] = {"compact": Compact(), "scratchpad": Scratchpad()}
