"""Rows of a dataset, from the Hugging Face hub or from local files, that know where they stand.

    Source(hub="openai/gsm8k", config="main", splits={"train": "train", "test": "test"})
    Source(path="svamp/train.jsonl.gz", splits={"train": "train"})          a file is one split
    Source(path="csqa", splits={"train": "train", "test": "validation"})    a folder has them all:
        csqa/train.jsonl.gz, csqa/dev.csv, or csqa/data/validation-00000-of-00002.parquet, ...

Files are .jsonl, .json (a list, or lines), .csv, .tsv (quoted as in CSV), .parquet and .txt (each
line a row with a "text"; in a folder it is a note, and not read), each also as .gz. A task makes
problems of rows, and a row that makes none is told with its file and line:

    def problem(row: Row) -> Problem:
        return Problem(f"train/{row.number}", text(row, "question"), str(number(row, "answer")))

    problems, left_out = parsed(source.rows("train"), problem, on_bad_row="skip")
"""

import csv
import gzip
import json
import logging
import math
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from io import BufferedIOBase
from pathlib import Path
from typing import Any, Literal, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from star_exp.errors import UserError, did_you_mean
from star_exp.records import Problem

T = TypeVar("T")
Read = Iterator[tuple[str, object]]  # ("line 3", its fields, or an Exception that says why not)
log = logging.getLogger("star_exp")

VALIDATION = {"validation", "valid", "val", "dev"}  # names of one split
FILE_NAME = re.compile(  # train.jsonl.gz, train-00000-of-00002.parquet, with a hash in older ones
    r"(?P<split>[^.]+?)(-\d{5}-of-(?P<shards>\d{5})(-\w+)?)?(?P<suffixes>\.\w+(\.gz)?)"
)


class NoSplit(ValueError):
    """A split that isn't there; what is wrong with one that is raises something else."""


class RowError(ValueError):
    """A row that can't be used; the message begins with where it stands."""


class NotAsked(RowError):
    """A good row of a kind that the task doesn't ask."""


@dataclass(frozen=True)
class Row:
    """
    where: "train.jsonl.gz line 3", "openai/gsm8k train row 3"; lines count from 1, rows from 0.
    number: of the row in its split, from 0; the same from hub and files, and whatever is left out.
    """

    where: str
    number: int
    fields: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Source:
    """
    splits: what the source calls our splits: {"train": "train", "dev": "validation"}.
    path: a file, or a folder with a file (or the hub's shards) for each split in it, in its data/,
        or in its folder named like `config`. A file holds the first of `splits` that its name
        tells (gsm8k_test.csv), else the first of all.
    hub, config, revision: the dataset on the hub, which is read where there is no path.
    setting: what `path` is set by, which errors name.
    """

    splits: Mapping[str, str]
    hub: str | None = None
    config: str | None = None
    revision: str | None = None
    path: str | Path | None = None
    setting: str = "task.path"

    def has(self, split: str) -> bool:
        """Whether there is such a split; the hub is not asked. UserError for a wrong path."""
        if split not in self.splits or self.path is None:
            return split in self.splits
        return bool(self._candidates(self._root(self.path), split))

    def rows(self, split: str) -> Iterator[Row | RowError]:
        """The rows in their order; in the place of one that can't be read, why.

        NoSplit for a split that is not in `splits`. UserError where there are no rows, and where
        a file is damaged, since nobody knows what is lost.
        """
        if split not in self.splits:
            raise NoSplit(f"no split {split!r}; {did_you_mean(split, self.splits)}")
        index = -1
        read = self._from_hub(split) if self.path is None else self._from_files(split)
        for index, (where, found) in enumerate(read):
            if isinstance(found, dict):
                yield Row(where, index, found)
            elif isinstance(found, Exception):
                yield RowError(f"{where}: {found}")
            else:
                yield RowError(f"{where}: expected a JSON object, found {_shown(found)}")
        if index < 0:
            source = self.hub if self.path is None else f"{self.setting}={self.path}"
            raise UserError(f"{source} has no rows for the split {split!r}")

    def fingerprint(self, split: str) -> str:
        """Hash of number and content of all rows that can be read, 16 hexadecimal digits.

        The same from every format: null fields count as absent, whole floats as integers. But CSV
        has only text, and where a writer has made times of text, or float32 of float64, they stay.
        """
        digest = blake2b(digest_size=8)
        for row in self.rows(split):
            if isinstance(row, Row):
                line = json.dumps([row.number, _canonical(row.fields)], sort_keys=True, default=str)
                digest.update(f"{line}\n".encode())
        return digest.hexdigest()

    def _from_hub(self, split: str) -> Read:
        if self.hub is None:
            raise UserError(f"there is nothing to read; set {self.setting}=FILE_OR_FOLDER")
        import datasets  # takes a second
        from huggingface_hub import is_offline_mode

        theirs = self.splits[split]
        try:
            rows = datasets.load_dataset(
                self.hub, self.config, split=theirs, revision=self.revision
            )
        except Exception as error:  # network, hub, disk and formats: each raises its own
            offline = "; HF_HUB_OFFLINE is set" if is_offline_mode() else ""
            raise UserError(
                f"{self.hub} ({theirs}) can't be read from the Hugging Face hub: "
                f"{type(error).__name__}: {error}{offline}. "
                f"To read local files instead, set {self.setting}=FILE_OR_FOLDER"
            ) from error
        for index, fields in enumerate(rows):
            yield f"{self.hub} {theirs} row {index}", fields

    def _from_files(self, split: str) -> Read:
        root = self._root(self.path or "")
        candidates = self._candidates(root, split)
        if len(candidates) > 1:
            names = " and ".join(map(str, candidates))
            raise UserError(f"{names} both are the split {split!r}; keep one of them")
        if not candidates:
            found = ", ".join(str(path.relative_to(root)) for path in self._paths(root))
            raise UserError(
                f"{root} has no file for the split {split!r}; expected {self.splits[split]}.jsonl, "
                f"or another of {', '.join(TABLES)}; found {found or root.name}"
            )
        for name, paths in candidates.items():
            for path in _all_shards(name, paths):
                yield from _read(path)

    def _candidates(self, root: Path, split: str) -> dict[Path, list[Path]]:
        """The files that can be the split; shards together, under a name with a * in it."""
        if root.is_file():
            told = [ours for ours, theirs in self.splits.items() if _tells(root.name, theirs)]
            return {root: [root]} if split == [*told, *self.splits][0] else {}
        candidates: dict[Path, list[Path]] = {}
        for path in self._paths(root):
            name = FILE_NAME.fullmatch(path.name)
            if name and _format(path) in TABLES and name["split"] in synonyms(self.splits[split]):
                shards = f"-*-of-{name['shards']}" if name["shards"] else ""
                group = path.with_name(f"{name['split']}{shards}{name['suffixes']}")
                candidates.setdefault(group, []).append(path)
        return candidates

    def _paths(self, root: Path) -> list[Path]:
        folders = {root, root / "data", root / (self.config or "data")}
        return sorted(path for folder in folders if folder.is_dir() for path in folder.iterdir())

    def _root(self, path: str | Path) -> Path:
        path = Path(path).expanduser()
        if path.exists():
            return path
        missing = next(part for part in (*reversed(path.parents), path) if not part.exists())
        near = (p for p in missing.parent.glob("*") if p.is_dir() or _format(p) in READERS)
        advice = did_you_mean(missing.name, (p.name for p in near))
        raise UserError(f"{self.setting}={path}: {missing} does not exist; {advice}")


def parsed(
    rows: Iterable[Row | RowError],
    parse: Callable[[Row], Problem],
    on_bad_row: Literal["raise", "skip"],
) -> tuple[list[Problem], list[RowError]]:
    """The problems, and an error for each row that was left out.

    A row is bad if it can't be read, if `parse` raises RowError, and if an earlier one has its id.
    UserError for the first bad row, or, with "skip", if there is no good one. One for which `parse`
    raises NotAsked is left out whatever on_bad_row says.
    """
    problems: list[Problem] = []
    left_out: list[RowError] = []
    places: dict[str, str] = {}
    for row in rows:
        try:
            problem = _problem(row, parse, places)
        except RowError as error:
            if on_bad_row == "raise" and not isinstance(error, NotAsked):
                advice = "Mend it, or leave bad rows out: task.on_bad_row=skip"
                raise UserError(f"{error}. {advice}") from error
            left_out.append(error)
        else:
            problems.append(problem)
    first = "; ".join(map(str, left_out[:3]))
    if left_out and not problems:
        raise UserError(f"no row can be used, of {len(left_out)}: {first}")
    if left_out:
        of = len(left_out) + len(problems)
        asked = [not isinstance(error, NotAsked) for error in left_out]
        level = logging.WARNING if any(asked) else logging.INFO
        log.log(level, "left out %d of %d rows: %s%s", len(left_out), of, first, _more(asked[3:]))
    return problems, left_out


def _more(bad: Sequence[bool]) -> str:
    kinds = {"bad": sum(bad), "not asked": len(bad) - sum(bad)}
    counts = ", ".join(f"{number} {kind}" for kind, number in kinds.items() if number)
    return f"; and {counts}" if counts else ""


def texts(source: Source, split: str, field: str = "text") -> Iterator[tuple[str, str]]:
    """(where it stands, the text) of every row, blank ones too. UserError for one without."""
    for row in source.rows(split):
        try:
            if isinstance(row, RowError):
                raise row
            found = value(row, field)
            if not isinstance(found, str):
                raise RowError(f"{row.where}: {field!r} is {_shown(found)}, expected text")
        except RowError as error:
            raise UserError(f"{source.setting.removesuffix('.path')}: {error}") from error
        yield row.where, found


def _problem(
    row: Row | RowError, parse: Callable[[Row], Problem], places: dict[str, str]
) -> Problem:
    if isinstance(row, RowError):
        raise row
    problem = parse(row)
    first = places.setdefault(problem.id, row.where)
    if first != row.where:
        raise RowError(f"{row.where}: the id {problem.id!r} is that of {first}")
    return problem


def value(row: Row, *names: str) -> Any:
    """The first of these fields that is there and not null. RowError if none is.

    "question.stem" is the field `stem` in the field `question`.
    """
    return _first(row, names)[1]


def text(row: Row, *names: str) -> str:
    """The first of these fields, as it stands. RowError unless it is text, and not only blanks."""
    name, found = _first(row, names)
    if not isinstance(found, str) or not found.strip():
        raise RowError(f"{row.where}: {name!r} is {_shown(found)}, expected text that is not empty")
    return found


def number(row: Row, *names: str) -> int | float:
    """The first of these fields. RowError unless it is a finite number, or text that reads as one.

    CSV has numbers as text: "39" is the integer, "39.0" the float.
    """
    name, found = _first(row, names)
    read = _read_number(found) if isinstance(found, str) else found
    if type(read) is int or (isinstance(read, float) and math.isfinite(read)):
        return read
    raise RowError(f"{row.where}: {name!r} is {_shown(found)}, expected a number")


def optional(read: Callable[..., T], row: Row, *names: str) -> T | None:
    """`optional(text, row, "rationale")`: what `text` reads, None if all are absent or empty."""
    there = [name for name in names if _field(row.fields, name) not in (None, "")]
    return read(row, *there) if there else None


def _first(row: Row, names: Sequence[str]) -> tuple[str, Any]:
    for name in names:
        found = _field(row.fields, name)
        if found is not None:
            return name, found
    expected = " or ".join(map(repr, names))
    there = [f"{key!r}{' (null)' if row.fields[key] is None else ''}" for key in row.fields]
    raise RowError(f"{row.where}: expected a field {expected}, found {', '.join(there) or 'none'}")


def _field(fields: object, name: str) -> Any:
    if not isinstance(fields, Mapping):
        return None
    if name in fields:  # also "question.stem" itself, as the header of a CSV file
        return fields[name]
    outer, _, inner = name.partition(".")
    return _field(fields.get(outer), inner) if inner else None


def _read_number(written: str) -> int | float | None:
    for read in (int, float):
        try:
            return read(written)
        except ValueError:
            continue
    return None


def _canonical(found: Any) -> Any:
    if isinstance(found, Mapping):
        return {key: _canonical(inner) for key, inner in found.items() if inner is not None}
    if isinstance(found, list | tuple):
        return [_canonical(inner) for inner in found]
    return int(found) if isinstance(found, float) and found.is_integer() else found


def _shown(found: object) -> str:
    shown = repr(found)
    return f"{shown if len(shown) <= 60 else shown[:57] + '...'} ({type(found).__name__})"


# Which file


def _all_shards(name: Path, paths: list[Path]) -> list[Path]:
    shards = re.search(r"-\*-of-(\d+)", name.name)
    if shards and len(paths) != int(shards[1]):
        found = ", ".join(path.name for path in paths)
        raise UserError(f"{name}: expected {int(shards[1])} files, found {found}; fetch the others")
    return paths


def synonyms(split: str) -> set[str]:
    """The names that a split may have."""
    return VALIDATION if split in VALIDATION else {split}


def _tells(name: str, split: str) -> bool:
    words = "|".join(map(re.escape, synonyms(split)))
    return bool(re.search(rf"(?<![^\W_])({words})(?![^\W_])", name))


def _format(path: Path) -> str:
    return Path(path.name.removesuffix(".gz")).suffix


# What is in it


def _read(path: Path) -> Read:
    """The rows of a file, each with its place. UserError if it can't be read to its end."""
    if _format(path) not in READERS:
        raise UserError(f"{path}: expected {', '.join(READERS)}, each also as .gz")
    place = "the beginning"
    try:
        with path.open("rb") as file:
            zipped = file.read(2) == b"\x1f\x8b"  # names may lie: downloads are unzipped at times
            file.seek(0)
            content = gzip.GzipFile(fileobj=file) if zipped else file
            for place, found in READERS[_format(path)](content):
                yield f"{path.name} {place}", found
    except (OSError, EOFError, ValueError, zlib.error, csv.Error, pa.ArrowException) as error:
        raise UserError(
            f"{path} can't be read beyond {place} ({type(error).__name__}: {error}). "
            "If it is damaged, or only the beginning, fetch or write it again"
        ) from error


def _json_lines(file: BufferedIOBase) -> Read:
    for count, line in enumerate(file, 1):
        if line.strip():
            yield f"line {count}", _json_line(line, count)


def _json_line(line: bytes, count: int) -> object:
    try:
        return json.loads(_decoded(line, count))
    except json.JSONDecodeError as error:
        return ValueError(
            f"not valid JSON: {error.msg} at character {error.pos}: {_shown(error.doc)}"
        )
    except (ValueError, RecursionError) as error:
        return error


def _decoded(line: bytes, count: int) -> str:
    try:
        return line.decode().removeprefix("\ufeff" if count == 1 else "")  # byte order mark
    except UnicodeDecodeError as error:
        place = f"byte {error.start} (0x{line[error.start]:02x}) of line {count}"
        raise ValueError(f"not UTF-8: {place}, counted from 0") from error


def _lines(file: BufferedIOBase) -> Read:
    for count, line in enumerate(file, 1):
        try:
            yield f"line {count}", {"text": _decoded(line, count).rstrip("\r\n")}
        except ValueError as error:
            yield f"line {count}", error


def _json(file: BufferedIOBase) -> Read:
    begins = file.read(1024).removeprefix(b"\xef\xbb\xbf").lstrip()
    file.seek(0)
    if not begins.startswith(b"["):
        return _json_lines(file)
    return ((f"row {index}", found) for index, found in enumerate(json.load(file)))


def _csv(delimiter: str, file: BufferedIOBase) -> Read:
    undecoded: list[ValueError] = []  # of the lines of the record that is read

    def lines() -> Iterator[str]:
        for count, line in enumerate(file, 1):
            try:
                yield _decoded(line, count)
            except ValueError as error:
                undecoded.append(error)
                yield line.decode(errors="replace")

    records = csv.reader(lines(), delimiter=delimiter, strict=True)
    header = next((cells for cells in records if cells), [])
    if undecoded:
        raise undecoded[0]
    if len({*header}) < len(header):
        raise ValueError(f"the header has a name twice: {', '.join(header)}")
    while True:
        place = f"line {records.line_num + 1}"
        undecoded.clear()
        try:
            cells = next(records)
        except StopIteration:
            return
        except csv.Error as error:
            yield place, ValueError(f"not valid CSV: {error}")
            continue
        if undecoded:
            yield place, undecoded[0]
        elif cells and len(cells) != len(header):
            yield place, ValueError(f"expected {len(header)} columns, found {len(cells)}")
        elif cells:
            yield place, dict(zip(header, cells, strict=True))


def _parquet(file: BufferedIOBase) -> Read:
    batches = pq.ParquetFile(file).iter_batches(batch_size=1024)
    fields = (fields for batch in batches for fields in batch.to_pylist())
    return ((f"row {index}", found) for index, found in enumerate(fields))


READERS: Mapping[str, Callable[[BufferedIOBase], Read]] = {
    ".jsonl": _json_lines,
    ".json": _json,
    ".csv": partial(_csv, ","),
    ".tsv": partial(_csv, "\t"),
    ".parquet": _parquet,
    ".txt": _lines,
}
TABLES = [name for name in READERS if name != ".txt"]  # what a folder's files are read as
