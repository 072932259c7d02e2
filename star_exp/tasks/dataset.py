"""Tasks whose problems are the rows of a dataset, from the hub or from local files.

A subclass says how a row becomes a problem, how it is asked and how an answer is read off. Reading,
bad rows, splits, sizes and exemplars are the same for all:

    train     the source's train rows, but for questions that its dev or test has too
    dev       the source's own, or `dev_share` of train, chosen by a hash of each question
    test      the source's own, or `test_share` of train, likewise
    ood       none: other tasks are measured beside a run (conf/ood)

Exemplars are in none. So a problem stays where it is, whatever the sizes and whichever rows are
bad, and a question that occurs twice isn't shown or trained on, and measured, nor measured twice.
Two questions are the same if they differ in blanks, case and punctuation alone.
"""

import logging
import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

from star_exp.errors import UserError, did_you_mean
from star_exp.records import Problem
from star_exp.schedule import draw
from star_exp.seeds import derive
from star_exp.tasks.base import Exemplar, Task
from star_exp.tasks.sources import (
    NoSplit,
    NotAsked,
    Row,
    RowError,
    Source,
    number,
    parsed,
    synonyms,
    text,
)

log = logging.getLogger("star_exp")

BUILT_IN = Path(__file__).parent / "exemplars"
SPLITS = ("train", "dev", "test")
EXEMPLAR = "an exemplar"


@dataclass(frozen=True, kw_only=True)
class DatasetTask(Task):
    """
    hub, config, revision: the dataset on the Hugging Face hub.
    path: a local file, or a folder with a file for each split, instead of it; see sources.py.
    splits: what the source calls our splits, {"train": "train", "test": "test"}; None: it has none,
        unless a local folder has a file of our name: dev.jsonl.
    dev_share, test_share: of train, where the source has no such split of its own.
    train_size, dev_size, test_size: at most so many problems, drawn with `seed`; None: all.
    on_bad_row: whether a row that can't be used ends the run or is left out and counted.
    exemplars_from: numbers of train rows that hold a rationale of their own, or a file of
        exemplars: JSON lines that are rows of the dataset's form with a "rationale", or
        {"row": n, "answer": ..., "rationale": ...} for row n of train. A bare name is one of ours.
    max_new_tokens: what sampling.max_new_tokens is, unless it is set.
    max_failed: share of checks that may fail before the run is stopped.
    """

    hub: str | None = None
    config: str | None = None
    revision: str | None = None
    path: str | None = None
    splits: Mapping[str, str | None] = field(
        default_factory=lambda: {"train": "train", "test": "test"}
    )
    dev_share: float = 0.1
    test_share: float = 0.0
    train_size: int | None = None
    dev_size: int | None = None
    test_size: int | None = None
    seed: int = 0
    on_bad_row: Literal["raise", "skip"] = "raise"
    exemplars_from: Sequence[int] | str | None = None
    max_new_tokens: int = 256
    max_failed: float = 0.02

    def __post_init__(self) -> None:
        for name in ("dev_share", "test_share", "max_failed"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"task.{name}={getattr(self, name)}: expected a share in [0, 1]")
        if self.dev_share + self.test_share >= 1:
            raise ValueError(
                f"task.dev_share={self.dev_share} and task.test_share={self.test_share} leave "
                "nothing to train on; their sum must be less than 1"
            )
        for name in ("train_size", "dev_size", "test_size"):
            size = getattr(self, name)
            if size is not None and size < 1:
                raise ValueError(f"task.{name}={size}: expected at least 1, or null for all")

    # what a subclass says

    @abstractmethod
    def problem(self, row: Row, split: str) -> Problem:
        """The problem of a row. RowError where the row can't be used, NotAsked where it could."""

    def stem(self, problem: Problem) -> str:
        """What makes two problems the same question."""
        return problem.question

    def own_rationale(self, row: Row) -> str:
        """The rationale that a row of the dataset brings along, with its answer."""
        raise RowError(f"{row.where}: these data have no rationales of their own")

    def closing(self, problem: Problem) -> str:
        """What a written rationale ends with: the answer, as `extract` reads it."""
        return self.direct(problem)

    def exemplar_problem(self, row: Row) -> Problem:
        """The problem of a line of a file of exemplars: a row of the dataset's form."""
        return self.problem(row, "exemplar")

    # what is the same for all

    @cached_property
    def source(self) -> Source:
        """A local file may be called by our name of a split, too: test.jsonl for ASDiv's.

        So may one for which `splits` has no name, unless it has the name of another's.
        """
        named = {ours: theirs for ours, theirs in self.splits.items() if theirs is not None}
        found = Source(
            hub=self.hub, config=self.config, revision=self.revision, path=self.path, splits=named
        )
        if self.path is None:
            return found
        names = SPLITS if Path(self.path).expanduser().is_dir() else tuple(named)
        ours = replace(found, splits={name: name for name in names})
        lacking = [
            name
            for name in names
            if not found.has(name) and not synonyms(name) & {*named.values()} and ours.has(name)
        ]
        return replace(found, splits=named | {name: name for name in lacking})

    def problems(self, split: str) -> Sequence[Problem]:
        """The problems of a split; none for ood. NoSplit where the source has no such split."""
        if split == "ood":
            return []
        if split not in SPLITS:
            raise NoSplit(f"there is no split {split!r}; there are train, dev and test")
        if split not in self._drawn:
            size = getattr(self, f"{split}_size")
            whole = self._of_split(split)
            if split != "train" and not self.source.has(split):  # published ones stay as they are
                whole = self._once(split, whole)
            few = size is not None and size < len(whole)
            self._drawn[split] = draw(whole, size if few else None, derive(self.seed, split))
        return self._drawn[split]

    def left_out(self, split: str) -> int:
        return sum(map(len, self.why_left_out(split).values()))

    def why_left_out(self, split: str) -> Mapping[str, Sequence[str]]:
        """The "bad", "not asked" and "repeated" rows of a split of the source, and "exemplars".

        A line for each, of what was read: after `problems(split)`, all.
        """
        return {kind: lines for kind, lines in self._left_out.get(split, {}).items() if lines}

    def whole(self) -> Self:
        """The same task with all of its problems."""
        return replace(self, train_size=None, dev_size=None, test_size=None)

    def solved(self) -> list[Exemplar]:
        """With what their rows bring along; [] for data without rationales of their own."""
        asked, found = {problem.id: problem for problem in self.problems("train")}, []
        for row in self.source.rows("train"):
            if isinstance(row, Row):
                with suppress(RowError):  # a row that was left out, or has no rationale
                    problem = asked.get(self.problem(row, "train").id)
                    if problem is not None:
                        found.append(Exemplar(problem, self.own_rationale(row)))
        return found

    def shown(self, problem: Problem) -> Sequence[Exemplar]:
        if not self._exemplars:
            raise ValueError(
                "the task has no exemplars to show; give task.exemplars_from=FILE, or "
                "data/prompts=bare"
            )
        asked = self._asked(problem)
        return [e for e in self._exemplars if self._asked(e.problem) != asked]

    def exemplars(self, per_group: int) -> list[Exemplar]:
        return [*self._exemplars[:per_group]]

    def _of_split(self, split: str) -> Sequence[Problem]:
        if split != "train" and self.source.has(split):
            return self._distinct(split)
        if not self.source.has("train"):
            cut = "" if split == "train" else ", and no train split to cut it off"
            raise NoSplit(f"{self.path or self.hub} has no split for {split!r}{cut}")
        shares = {"dev": self.dev_share, "test": self.test_share}
        cut = {name: share for name, share in shares.items() if not self.source.has(name)}
        if split in cut and not cut[split]:
            raise NoSplit(
                f"{self.path or self.hub} has no split for {split!r}; set task.{split}_share to "
                "cut one off train"
            )
        train = self._distinct("train")
        found = [problem for problem in train if _belongs(self._asked(problem), cut) == split]
        if split != "train":
            log.info(
                "%s has no %s split: it is %d of the %d problems of train (task.%s_share=%g)",
                *(self.path or self.hub, split, len(found), len(train), split, cut[split]),
            )
        return found

    def _distinct(self, split: str) -> list[Problem]:
        """Those of a split of the source that are no exemplars and, of train, not measured on."""
        if split not in self._kept:
            problems, taken = self._parsed(split), self._taken(split)
            self._kept[split] = [each for each in problems if self._asked(each) not in taken]
            lines: dict[str, list[str]] = {"exemplars": [], "repeated": []}
            for problem in problems:
                if where := taken.get(self._asked(problem)):
                    line = f"{_place(split, problem)}: the question is that of {where}"
                    lines["exemplars" if where == EXEMPLAR else "repeated"].append(line)
            self._tell_repeated(split, lines["repeated"])
            self._left_out[split] |= lines
        return self._kept[split]

    def _once(self, split: str, problems: Sequence[Problem]) -> list[Problem]:
        """Each prompt once, choices and all: what is measured twice makes intervals too narrow."""
        first: dict[str, Problem] = {}
        lines = []
        for problem in problems:
            other = first.setdefault(_words(self.prompt(problem)), problem)
            if other is not problem:
                where = _place(split, other)
                lines.append(f"{_place(split, problem)}: the question is that of {where}")
        self._tell_repeated(split, lines)
        self._left_out.setdefault(split, {})["repeated"] = lines
        return list(first.values())

    def _taken(self, split: str) -> dict[str, str]:
        """{question: where it is asked} of what may not be in this split."""
        taken: dict[str, str] = {}
        if split == "train":
            for other in filter(self.source.has, ("dev", "test")):
                taken |= {self._asked(each): _place(other, each) for each in self._parsed(other)}
        try:
            exemplars = self._exemplars
        except UserError:
            if split == "train":
                raise
            exemplars = []  # a test file alone may be measured, without the rows of train
        return taken | {self._asked(exemplar.problem): EXEMPLAR for exemplar in exemplars}

    @staticmethod
    def _tell_repeated(split: str, lines: Sequence[str]) -> None:
        if lines:
            log.info("left %d of %s out: %s", len(lines), split, "; ".join(lines[:3]))

    def _asked(self, problem: Problem) -> str:
        """The question, however it is written."""
        return _words(self.stem(problem))

    def _parsed(self, split: str) -> list[Problem]:
        if split not in self._read:
            self._read[split], left_out = parsed(
                self.source.rows(split), lambda row: self.problem(row, split), self.on_bad_row
            )
            kinds: dict[str, list[str]] = {"bad": [], "not asked": []}
            for error in left_out:
                kinds["not asked" if isinstance(error, NotAsked) else "bad"].append(str(error))
            self._left_out[split] = kinds
        return self._read[split]

    @cached_property
    def _read(self) -> dict[str, list[Problem]]:
        return {}

    @cached_property
    def _kept(self) -> dict[str, list[Problem]]:
        return {}

    @cached_property
    def _left_out(self) -> dict[str, dict[str, list[str]]]:
        return {}

    @cached_property
    def _drawn(self) -> dict[str, Sequence[Problem]]:
        return {}

    # exemplars

    @cached_property
    def _exemplars(self) -> list[Exemplar]:
        match self.exemplars_from:
            case None:
                return []
            case str(name):
                return self._from_file(_exemplar_file(name))
            case numbers:
                try:
                    return [self._exemplar(row) for row in self._train_rows(numbers)]
                except RowError as error:
                    raise UserError(f"task.exemplars_from: {error}") from error

    def _exemplar(self, row: Row) -> Exemplar:
        found = Exemplar(self.problem(row, "exemplar"), self.own_rationale(row))
        return self._graded(found, row)

    def _from_file(self, path: Path) -> list[Exemplar]:
        """Exemplars in the order of the file; those named by number get their rows from train."""
        source = Source(path=path, splits={"train": "train"}, setting="task.exemplars_from")
        lines = list(source.rows("train"))
        for line in lines:
            if isinstance(line, RowError):
                raise UserError(f"exemplars: {line}") from line
        rows = [line for line in lines if isinstance(line, Row)]
        try:
            wanted = [int(number(row, "row")) for row in rows if "row" in row.fields]
            found = iter(self._train_rows(wanted))
            return [self._written(row, next(found) if "row" in row.fields else row) for row in rows]
        except RowError as error:
            raise UserError(f"{path}: {error}") from error

    def _written(self, line: Row, row: Row) -> Exemplar:
        problem = self.problem(row, "exemplar") if row is not line else self.exemplar_problem(row)
        said = line.fields.get("answer")
        if row is not line and said is not None and str(said) != problem.answer:
            raise RowError(
                f"{line.where}: the exemplar of row {row.number} has the answer {said!r}, and "
                f"{row.where} has {problem.answer!r}: the data are not in the order that the file "
                "was written for"
            )
        said = f" {text(line, 'rationale').strip()}{self.closing(problem)}"
        return self._graded(Exemplar(problem, said), line)

    def _graded(self, exemplar: Exemplar, row: Row) -> Exemplar:
        """RowError unless it is judged right, and a completion like it is not cut short."""
        problem, said = exemplar.problem, exemplar.completion
        for end in self.stop:
            if end in said.removesuffix(end):
                raise RowError(
                    f"{row.where}: the exemplar holds {end!r}, which ends a completion: one like "
                    "it would be cut there. Leave it out, or end completions otherwise"
                )
        answer = self.extract(said)
        if answer != problem.answer and not self.correct(problem, answer):
            raise RowError(
                f"{row.where}: the exemplar is read as {answer!r}, and the answer is "
                f"{problem.answer!r}: {said!r}"
            )
        return exemplar

    def _train_rows(self, numbers: Sequence[int]) -> list[Row]:
        """These rows of train, in this order. UserError for one that isn't there."""
        if not numbers:
            return []
        if not self.source.has("train"):
            raise UserError(
                f"the exemplars are rows of train, and {self.path or self.hub} has no train split; "
                "give task.exemplars_from=FILE"
            )
        found: dict[int, Row] = {}
        for row in self.source.rows("train"):
            if isinstance(row, Row) and row.number in numbers:
                found[row.number] = row
            if len(found) == len(set(numbers)):
                break
        missing = [number for number in numbers if number not in found]
        if missing:
            raise UserError(
                f"task.exemplars_from names row {missing[0]} of train, which "
                f"{self.path or self.hub} doesn't have"
            )
        return [found[number] for number in numbers]


# The signs are words too: 3-2 is not 3+2.
_WORD = re.compile(r"\w+|[^\w\s.,;:!?'\"…\u2018-\u201d]")


def _words(text: str) -> str:
    return " ".join(_WORD.findall(text.casefold())) or text


def _belongs(asked: str, cut: Mapping[str, float]) -> str:
    """The split that a row of train is in: a hash of its question falls into one of the shares."""
    place, edge = derive("split", asked) % 10**6 / 10**6, 0.0
    for split, share in cut.items():
        edge += share
        if place < edge:
            return split
    return "train"


def _place(split: str, problem: Problem) -> str:
    return problem.id if problem.id.startswith(f"{split}/") else f"{split} {problem.id}"


def _exemplar_file(name: str) -> Path:
    """One of ours, by its bare name, or the user's. UserError for a name that is neither."""
    built_in, path = BUILT_IN / f"{name}.jsonl", Path(name).expanduser()
    if "/" not in name and built_in.exists():
        return built_in
    if path.name == name and not path.suffix and not path.exists():
        advice = did_you_mean(name, (file.stem for file in BUILT_IN.glob("*.jsonl")))
        raise UserError(f"task.exemplars_from={name}: no file and none of our exemplars; {advice}")
    return path


def identity(row: Row, split: str, *names: str) -> str:
    """The id that the data give a row, or `split/number`."""
    for name in names:
        value: Any = row.fields.get(name)
        if isinstance(value, str) and value.strip():
            return value
        if isinstance(value, int):
            return f"{split}/{value}"
    return f"{split}/{row.number}"
