"""The same rows whatever they are read from, and for each bad one its file and its line."""

import csv
import gzip
import hashlib
import io
import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from star_exp.errors import UserError
from star_exp.records import Problem
from star_exp.tasks.sources import (
    NotAsked,
    Row,
    RowError,
    Source,
    number,
    optional,
    parsed,
    text,
    texts,
    value,
)

SPLITS = {"train": "train", "dev": "validation", "test": "test"}
# what formats may treat differently: quotes, line ends, what JSON and str.splitlines disagree on
FIELDS = [
    {"question": "2+6?", "answer": "8"},
    {"question": 'Zoë said "hi",\n🙂 \u2028 \t end', "answer": ""},
    {"question": "a\r\nb", "answer": "0.5"},
]
NESTED = [
    {"id": 1, "whole": 2.0, "part": 0.1, "none": None, "choices": {"label": ["A"], "text": None}},
    {"id": 2, "whole": 3.0, "part": -1e300, "none": None, "choices": {"label": [], "text": ["x"]}},
]
ZIPPED, ZIPPED_NOTHING = (gzip.compress(content, mtime=0) for content in (b'{"a": 1}\n', b""))


def json_lines(rows) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def separated(delimiter: str, rows) -> bytes:
    written = io.StringIO(newline="")
    table = csv.DictWriter(written, rows[0], delimiter=delimiter)
    table.writeheader()
    table.writerows(rows)
    return written.getvalue().encode()


def parquet(rows) -> bytes:
    written = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), written)
    return written.getvalue()


WRITERS = {
    "jsonl": json_lines,
    "lines.json": json_lines,
    "list.json": lambda rows: json.dumps(rows, indent=1).encode(),
    "csv": lambda rows: separated(",", rows),
    "tsv": lambda rows: separated("\t", rows),
    "parquet": parquet,
}
FORMATS = [*WRITERS, *(f"{name}.gz" for name in WRITERS)]


def written(folder: Path, name: str, rows=FIELDS) -> Path:
    """A file whose format is that of its name: train.jsonl.gz."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    content = WRITERS[name.removesuffix(".gz").split(".", 1)[1]](rows)
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return path


def put(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def source(path: Path, **settings) -> Source:
    return Source(path=path, splits=SPLITS, **settings)


def train(path: Path) -> list[Row | RowError]:
    return list(source(path).rows("train"))


def good(path: Path) -> list[Row]:
    return [row for row in train(path) if isinstance(row, Row)]


def told(path: Path) -> list[str]:
    """The messages of the bad rows."""
    return [str(row) for row in train(path) if isinstance(row, RowError)]


# Formats


@pytest.mark.parametrize("name", FORMATS)
def test_rows_come_back_in_their_order_from_every_format(tmp_path, name):
    rows = good(written(tmp_path, f"train.{name}"))
    assert [row.fields for row in rows] == FIELDS
    assert [row.number for row in rows] == [0, 1, 2]


@pytest.mark.parametrize("name", FORMATS)
def test_the_fingerprint_is_that_of_the_rows_not_of_the_format(tmp_path, name):
    first = source(written(tmp_path, "train.jsonl")).fingerprint("train")
    assert source(written(tmp_path, f"train.{name}")).fingerprint("train") == first
    assert len(first) == 16 and int(first, 16) >= 0


def test_lines_count_from_one_and_blank_lines_are_lines_but_not_rows(tmp_path):
    path = put(tmp_path, "train.jsonl", b'{"a": 1}\n\n  \r\n{"a": 2}\r\n{"a": 3}')
    assert [(row.where, row.number, row.fields) for row in good(path)] == [
        ("train.jsonl line 1", 0, {"a": 1}),
        ("train.jsonl line 4", 1, {"a": 2}),
        ("train.jsonl line 5", 2, {"a": 3}),
    ]


def test_a_csv_row_stands_on_its_first_line(tmp_path):
    path = put(tmp_path, "train.csv", b'a,b\r\n1,"x\ny"\r\n\r\n2,z\r\n')
    assert [(row.where, row.fields) for row in good(path)] == [
        ("train.csv line 2", {"a": "1", "b": "x\ny"}),
        ("train.csv line 5", {"a": "2", "b": "z"}),
    ]


@pytest.mark.parametrize("name", ["list.json", "parquet"])
def test_rows_without_lines_count_from_zero(tmp_path, name):
    path = written(tmp_path, f"train.{name}")
    assert [row.where for row in good(path)] == [f"train.{name} row {n}" for n in (0, 1, 2)]


@pytest.mark.parametrize("name", ["jsonl", "list.json", "csv"])
def test_a_byte_order_mark_is_no_content(tmp_path, name):
    path = written(tmp_path, f"train.{name}")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert [row.fields for row in good(path)] == FIELDS


def test_a_zipped_file_is_read_as_such_whatever_its_name_says(tmp_path):
    unzipped = put(tmp_path, "a.jsonl.gz", json_lines(FIELDS))
    zipped = put(tmp_path, "b.jsonl", gzip.compress(json_lines(FIELDS)))
    assert [row.fields for row in good(unzipped)] == [row.fields for row in good(zipped)] == FIELDS


def test_lines_are_read_as_they_are_asked_for(tmp_path):
    lines = b'{"a": 1}\n' * 100_000
    path = put(tmp_path, "train.jsonl.gz", gzip.compress(lines, 1)[:-9])  # the end is missing
    rows = source(path).rows("train")
    assert isinstance(next(rows), Row)
    with pytest.raises(UserError, match=r"train\.jsonl\.gz can't be read beyond line \d+ \(EOFErr"):
        list(rows)


# Bad rows


def test_the_rows_around_a_bad_one_keep_their_numbers(tmp_path):
    path = put(tmp_path, "train.jsonl", b'{"a": 1}\n{"a": \n{"a": 3}\n')
    assert [(row.number, row.fields) for row in good(path)] == [(0, {"a": 1}), (2, {"a": 3})]
    assert told(path) == [
        "train.jsonl line 2: not valid JSON: Expecting value at character 7: '{\"a\": \\n' (str)"
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"[1, 2]", "expected a JSON object, found [1, 2] (list)"),
        (b"null", "expected a JSON object, found None (NoneType)"),
        (b'"text"', "expected a JSON object, found 'text' (str)"),
        (b'{"a": "\xc3\xa9\xff"}', "not UTF-8: byte 9 (0xff) of line 2, counted from 0"),
        (b'{"a": 1} {"a": 2}', "not valid JSON: Extra data at character 9"),
        (b"version https://git-lfs.github.com/spec/v1", "'version https://git-lfs"),
        (b"[" * 100_000, "recursion"),
    ],
    ids=["list", "null", "text", "utf-8", "two-values", "lfs", "deep"],
)
def test_a_line_that_is_no_object_is_told(tmp_path, line, message):
    path = put(tmp_path, "train.jsonl", b'{"a": 1}\n' + line + b"\n")
    assert told(path)[0].startswith("train.jsonl line 2: ")
    assert message in told(path)[0]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (b"1\n", "train.csv line 3: expected 2 columns, found 1"),
        (b"1,2,3\n", "train.csv line 3: expected 2 columns, found 3"),
        (b"1,\xff\n", "train.csv line 3: not UTF-8: byte 2 (0xff) of line 3, counted from 0"),
        (b'1,"x\n\xff"\n', "train.csv line 3: not UTF-8: byte 0 (0xff) of line 4, counted from 0"),
        (b'1,"x"y\n', "train.csv line 3: not valid CSV: ',' expected after '\"'"),
        (b'\xff,"x"y\n', "train.csv line 3: not valid CSV: ',' expected after '\"'"),
    ],
    ids=["few", "many", "utf-8", "utf-8-later", "quote", "both"],
)
def test_a_bad_csv_row_is_told_and_the_next_one_is_read(tmp_path, lines, message):
    path = put(tmp_path, "train.csv", b"a,b\n1,2\n" + lines + b"5,6\n")
    assert told(path) == [message]
    assert [row.fields for row in good(path)] == [{"a": "1", "b": "2"}, {"a": "5", "b": "6"}]


def test_a_quote_that_is_never_closed_is_told_where_it_opens(tmp_path):
    path = put(tmp_path, "train.csv", b'a,b\n1,2\n3,"4\n5,6\n')
    assert told(path) == ["train.csv line 3: not valid CSV: unexpected end of data"]


# Files that can't be read


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train.jsonl", b"", "has no rows for the split 'train'"),
        ("train.jsonl.gz", b"", "has no rows"),
        ("train.jsonl.gz", ZIPPED_NOTHING, "has no rows"),
        ("train.json", b"[]", "has no rows"),
        ("train.csv", b"a,b\n", "has no rows"),
        ("train.csv", b"a,b,a\n1,2,3\n", "the header has a name twice: a, b, a"),
        ("train.csv", b"a,\xff\n1,2\n", r"byte 2 \(0xff\) of line 1"),
        ("train.json", b'[{"a": 1}\n{"a": 2}]', "line 2 column 1"),
        ("train.json", b'[{"a": "\xff"}]', "byte 0xff in position 8"),
        ("train.parquet", b"PAR1 and then nothing", "can't be read beyond the beginning"),
        ("train.parquet", b"", "can't be read beyond the beginning"),
        ("train.jsonl.gz", ZIPPED[:-4], "fetch or write it again"),
        ("train.jsonl.gz", ZIPPED[:10] + b"\xff" * 20, "error: Error -3 while decompressing"),
        ("train.jsonl.gz", ZIPPED[:-8] + b"\xff" * 8, "CRC check failed"),
        (
            "train.xml",
            b"a",
            r"train\.xml: expected \.jsonl, \.json, \.csv, \.tsv, \.parquet, \.txt",
        ),
    ],
    ids=range(15),
)
def test_a_file_that_can_not_be_read_is_named(tmp_path, name, content, message):
    with pytest.raises(UserError, match=message) as caught:
        train(put(tmp_path, name, content))
    assert str(tmp_path / name) in str(caught.value)


def test_a_path_that_does_not_exist_is_told_with_its_neighbours(tmp_path):
    written(tmp_path / "gsm8k", "train.jsonl")
    for path, missing, near in [
        (tmp_path / "gsm8k" / "trian.jsonl", "trian.jsonl", "did you mean 'train.jsonl'?"),
        (tmp_path / "gms8k" / "train.jsonl", "gms8k", "did you mean 'gsm8k'?"),
        (tmp_path / "gsm8k" / "train.jsonl" / "x", "x", "nothing is expected here"),
    ]:
        for ask in (source(path).has, lambda split, path=path: list(source(path).rows(split))):
            with pytest.raises(UserError) as caught:
                ask("train")
            assert str(caught.value).startswith(f"task.path={path}: ")
            assert f"{missing} does not exist; {near}" in str(caught.value)


def test_without_hub_and_path_the_flag_is_named():
    with pytest.raises(UserError, match=r"task\.path=FILE_OR_FOLDER"):
        list(Source(splits=SPLITS).rows("train"))


def test_an_unknown_split_is_a_wrong_argument(tmp_path):
    with pytest.raises(ValueError, match="did you mean 'train'"):
        list(source(tmp_path).rows("trian"))
    assert not source(tmp_path).has("trian")


# Folders and splits


@pytest.mark.parametrize("name", ["dev.jsonl", "val.csv", "valid.tsv.gz", "validation.parquet"])
@pytest.mark.parametrize("theirs", ["validation", "dev"])
def test_validation_has_many_names(tmp_path, name, theirs):
    written(tmp_path, name)
    folder = Source(path=tmp_path, splits={"dev": theirs, "train": "train"})
    assert [row.fields for row in folder.rows("dev") if isinstance(row, Row)] == FIELDS
    assert folder.has("dev") and not folder.has("train")


@pytest.mark.parametrize("where", ["", "data", "main"])
def test_a_folder_is_searched_as_the_hub_lays_it_out(tmp_path, where):
    written(tmp_path / where, "train.jsonl")
    folder = source(tmp_path, config="main")
    assert folder.has("train") and not folder.has("test")
    assert len(list(folder.rows("train"))) == 3


@pytest.mark.parametrize("suffix", ["", "-a09b74b3ef9c3b56"])
def test_shards_are_read_in_their_order_as_one_split(tmp_path, suffix):
    for shard in (1, 0, 2):
        path = f"train-{shard:05d}-of-00003{suffix}.parquet"
        put(tmp_path, path, parquet([{"id": 2 * shard}, {"id": 2 * shard + 1}]))
    rows = good(tmp_path)
    assert [row.fields["id"] for row in rows] == [row.number for row in rows] == [*range(6)]
    assert rows[3].where == f"train-00001-of-00003{suffix}.parquet row 1"


def test_a_missing_shard_is_told(tmp_path):
    put(tmp_path, "train-00000-of-00002.parquet", parquet(FIELDS))
    with pytest.raises(UserError, match="expected 2 files, found train-00000-of"):
        train(tmp_path)


@pytest.mark.parametrize("other", ["train.csv", "train.jsonl.gz", "data/train.jsonl"])
def test_two_files_for_one_split_are_both_named(tmp_path, other):
    paths = [
        written(tmp_path / Path(name).parent, Path(name).name) for name in ("train.jsonl", other)
    ]
    with pytest.raises(UserError, match="both are the split 'train'") as caught:
        train(tmp_path)
    assert all(str(path) in str(caught.value) for path in paths)


def test_a_folder_without_the_split_tells_what_it_holds(tmp_path):
    written(tmp_path, "test.jsonl")
    put(tmp_path, "README.md", b"")
    written(tmp_path / "data", "dev.csv")
    with pytest.raises(UserError, match=r"found README\.md, data, data/dev\.csv, test\.jsonl$"):
        train(tmp_path)


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("test.jsonl", "test"),
        ("gsm8k_test.jsonl", "test"),
        ("my-val.jsonl", "dev"),
        ("contest.jsonl", "train"),
        ("svamp.jsonl", "train"),
    ],
)
def test_a_file_is_one_split_the_one_that_its_name_tells(tmp_path, name, split):
    path = put(tmp_path, name, json_lines(FIELDS))
    assert [ours for ours in SPLITS if source(path).has(ours)] == [split]
    assert len(list(source(path).rows(split))) == 3
    other = next(ours for ours in SPLITS if ours != split)
    with pytest.raises(UserError, match=f"no file for the split '{other}'; .* found {name}"):
        list(source(path).rows(other))


# The hub


@pytest.fixture
def hub(monkeypatch):
    """What the hub was asked for; it answers with NESTED."""
    datasets = pytest.importorskip("datasets")
    asked = []

    def load_dataset(*arguments, **settings):
        asked.append((*arguments, settings))
        return datasets.Dataset.from_list(NESTED)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


def test_the_hub_is_asked_for_the_split_by_its_own_name(hub):
    asked = Source(hub="some/set", config="main", revision="abc", splits=SPLITS)
    rows = [row for row in asked.rows("dev") if isinstance(row, Row)]
    assert hub == [("some/set", "main", {"split": "validation", "revision": "abc"})]
    assert [row.where for row in rows] == [f"some/set validation row {n}" for n in (0, 1)]
    assert [row.number for row in rows] == [0, 1]
    assert [row.fields["choices"]["label"] for row in rows] == [["A"], []]


@pytest.mark.parametrize("name", ["jsonl", "jsonl.gz", "list.json", "parquet"])
def test_rows_of_the_hub_have_the_fingerprint_of_a_file(hub, tmp_path, name):
    path = written(tmp_path, f"train.{name}", NESTED)
    theirs = Source(hub="some/set", splits=SPLITS).fingerprint("train")
    assert source(path).fingerprint("train") == theirs


def test_the_fingerprint_is_a_hash_of_numbers_and_fields(tmp_path):
    path = put(tmp_path, "train.jsonl", '{"b": "é", "a": 1.0}\n\n{"c": null}\n'.encode())
    lines = b'[0, {"a": 1, "b": "\\u00e9"}]\n[1, {}]\n'
    expected = hashlib.blake2b(lines, digest_size=8).hexdigest()
    assert source(path).fingerprint("train") == expected


def test_null_is_absent_and_whole_floats_are_integers_in_a_fingerprint(hub, tmp_path):
    lines = [
        b'{"whole": 2, "id": 1, "part": 0.1, "choices": {"label": ["A"]}}\n',
        b'{"id": 2, "whole": 3, "part": -1e300, "choices": {"text": ["x"], "label": []}}\n',
    ]
    theirs = Source(hub="some/set", splits=SPLITS).fingerprint("train")
    assert source(put(tmp_path, "a.jsonl", b"".join(lines))).fingerprint("train") == theirs


@pytest.mark.parametrize(
    "lines",
    [
        b'{"a": 1}\n{"a": 3}\n',
        b'{"a": 2}\n{"a": 1}\n',
        b'{"a": 1}\n',
        b'{"a": 1}\n{"a": 2}\n{"a": 2}\n',
        b'{"a": 1}\n{"a": "2"}\n',
        b'{"a": 1}\n{"b": 2}\n',
        b'{"a": 1}\nnot a row\n{"a": 2}\n',
        b'{"a": true}\n{"a": 2}\n',
    ],
    ids=["value", "order", "shorter", "longer", "type", "name", "bad", "boolean"],
)
def test_other_rows_have_another_fingerprint(tmp_path, lines):
    first = put(tmp_path, "a.jsonl", b'{"a": 1}\n{"a": 2}\n')
    other = put(tmp_path, "b.jsonl", lines)
    assert source(first).fingerprint("train") != source(other).fingerprint("train")


def test_a_real_dataset_folder_is_read_as_from_the_hub_and_as_from_files(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "set"
    written(folder / "data", "train.jsonl", NESTED)
    as_hub = Source(hub=str(folder), splits=SPLITS)
    assert source(folder).fingerprint("train") == as_hub.fingerprint("train")
    with pytest.raises(UserError, match='Unknown split "test"'):
        list(as_hub.rows("test"))


def test_what_the_hub_refuses_is_told_with_the_flag_for_local_files(monkeypatch):
    datasets = pytest.importorskip("datasets")

    def refuse(*_, **__):
        raise datasets.exceptions.DatasetNotFoundError("'some/set' is a gated dataset on the Hub.")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(UserError, match=r"gated .* set task\.path=FILE_OR_FOLDER"):
        list(Source(hub="some/set", splits=SPLITS).rows("train"))


def test_without_a_network_the_error_comes_at_once_and_names_the_flag(tmp_path):
    script = (
        "import time; from star_exp.errors import UserError\n"
        "from star_exp.tasks.sources import Source\n"
        "import datasets; start = time.monotonic()\n"
        "try: list(Source(hub='no/such', splits={'test': 'test'}).rows('test'))\n"
        "except UserError as error: print(error)\n"
        "print(time.monotonic() - start < 1)\n"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True
    )
    message, quick = run.stdout.splitlines()
    assert message.startswith("no/such (test) can't be read from the Hugging Face hub: Connection")
    assert message.endswith(
        "; HF_HUB_OFFLINE is set. To read local files instead, set task.path=FILE_OR_FOLDER"
    )
    assert quick == "True"


# Fields

ROW = Row(
    "train.jsonl line 3",
    2,
    {"question": {"stem": "Why?"}, "null": None, "empty": "", "int": 3, "nan": float("nan"),
     "yes": True, "list": ["a"], "csv.dotted": "x", "big": 10**400},
)  # fmt: skip


def test_the_first_field_that_is_there_is_read():
    assert text(ROW, "absent", "null", "question.stem") == "Why?"
    assert text(ROW, "csv.dotted") == "x"
    assert value(ROW, "yes", "int") is True
    assert value(ROW, "list") == ["a"]


@pytest.mark.parametrize("names", [("absent",), ("null",), ("question.null",), ("int.x", "a.b")])
def test_a_missing_field_is_told_with_those_that_are_there(names):
    with pytest.raises(RowError) as caught:
        text(ROW, *names)
    assert str(caught.value) == (
        f"train.jsonl line 3: expected a field {' or '.join(map(repr, names))}, found 'question', "
        "'null' (null), 'empty', 'int', 'nan', 'yes', 'list', 'csv.dotted', 'big'"
    )


@pytest.mark.parametrize(
    ("read", "name", "message"),
    [
        (text, "empty", "'empty' is '' (str), expected text that is not empty"),
        (text, "int", "'int' is 3 (int), expected text that is not empty"),
        (text, "question", "'question' is {'stem': 'Why?'} (dict), expected text"),
        (number, "question.stem", "'question.stem' is 'Why?' (str), expected a number"),
        (number, "nan", "'nan' is nan (float), expected a number"),
        (number, "yes", "'yes' is True (bool), expected a number"),
        (number, "list", "'list' is ['a'] (list), expected a number"),
    ],
)
def test_a_wrong_field_is_told_with_what_was_expected(read, name, message):
    with pytest.raises(RowError) as caught:
        read(ROW, "absent", name)
    assert str(caught.value).startswith(f"train.jsonl line 3: {message}")


@pytest.mark.parametrize(
    ("found", "expected"),
    [(3, 3), (1.5, 1.5), ("39", 39), ("39.0", 39.0), (" -7 ", -7), ("025", 25), ("1e3", 1000.0)],
)
def test_a_number_may_be_written_as_text(found, expected):
    read = number(Row("here", 0, {"a": found}), "a")
    assert (read, type(read)) == (expected, type(expected))
    assert number(ROW, "big") == 10**400


@pytest.mark.parametrize("found", ["", "1,234", "nan", "inf", "1/2", "3 4"])
def test_what_only_looks_like_a_number_is_none(found):
    with pytest.raises(RowError, match="expected a number"):
        number(Row("here", 0, {"a": found}), "a")


def test_an_optional_field_may_be_absent_null_or_empty_but_not_wrong():
    assert optional(text, ROW, "absent", "null", "empty") is None
    assert optional(text, ROW, "empty", "question.stem") == "Why?"
    assert optional(number, ROW, "int") == 3
    with pytest.raises(RowError, match="expected text"):
        optional(text, ROW, "int")


# What becomes of bad rows


def problem(row: Row) -> Problem:
    return Problem(text(row, "id"), text(row, "question"), str(number(row, "answer")))


BAD = b"""{"id": "a", "question": "2+6?", "answer": 8}
{"id": "b", "question": "2+7?"}
{"id": "c", "question": "2+8?", "answer": 10}
{"id": "a", "question": "2+9?", "answer": 11}
{"id"
{"id": "d", "question": "", "answer": 1}
"""


def test_good_rows_become_problems(tmp_path):
    path = put(tmp_path, "train.jsonl", BAD.splitlines()[0])
    expected = [Problem("a", "2+6?", "8")]
    assert parsed(source(path).rows("train"), problem, "raise") == (expected, [])


def test_bad_rows_are_left_out_counted_and_logged_once(tmp_path, caplog):
    rows = source(put(tmp_path, "train.jsonl", BAD)).rows("train")
    with caplog.at_level(logging.WARNING, "star_exp"):
        problems, left_out = parsed(rows, problem, "skip")
    assert [problem.id for problem in problems] == ["a", "c"]
    messages = [str(error) for error in left_out]
    assert [message.split(": ")[0] for message in messages] == [
        f"train.jsonl line {count}" for count in (2, 4, 5, 6)
    ]
    assert messages[1] == "train.jsonl line 4: the id 'a' is that of train.jsonl line 1"
    first_three = "; ".join(messages[:3])
    assert caplog.messages == [f"left out 4 of 6 rows: {first_three}; and 1 bad"]


def test_reasons_beyond_the_third_are_counted_by_kind(tmp_path, caplog):
    def some(row: Row) -> Problem:
        if row.number % 3:
            raise (NotAsked if row.number % 3 == 1 else RowError)(f"{row.where}: no")
        return Problem(str(row.number), "", "")

    rows = source(put(tmp_path, "train.jsonl", b"{}\n" * 12)).rows("train")
    with caplog.at_level(logging.WARNING, "star_exp"):
        parsed(rows, some, "skip")
    assert caplog.messages == [
        "left out 8 of 12 rows: train.jsonl line 2: no; train.jsonl line 3: no; "
        "train.jsonl line 5: no; and 3 bad, 2 not asked"
    ]


# Texts


def test_texts_are_the_same_from_every_kind_of_file(tmp_path):
    lines = ["one", "", "zwei \u00e4"]
    rows = "".join(json.dumps({"text": line}) + "\n" for line in lines).encode()
    plainly = "".join(f"{line}\r\n" for line in lines).encode()
    for name, content in (
        ("a.txt", plainly),
        ("a.txt.gz", gzip.compress(plainly)),
        ("train.jsonl", rows),
    ):
        path = put(tmp_path, name, content)
        assert [text for _, text in texts(source(path), "train")] == lines
    assert [text for _, text in texts(source(path.parent), "train")] == lines  # a folder


def test_a_text_beside_the_files_of_a_folder_is_a_note(tmp_path):
    put(tmp_path, "train.txt", b"where these data come from")
    put(tmp_path, "train.jsonl", b'{"a": 1}\n')
    assert [row.fields for row in good(tmp_path)] == [{"a": 1}]


def test_what_is_no_text_is_told_with_the_setting_and_the_place(tmp_path):
    for name, content, said in (
        ("a.txt", b"fine\n\xff\n", "a.txt line 2: not UTF-8"),
        ("a.jsonl", b'{"text": 5}\n', "a.jsonl line 1: 'text' is 5 (int), expected text"),
        ("b.jsonl", b'{"txt": ""}\n', "b.jsonl line 1: expected a field 'text'"),
    ):
        path = put(tmp_path, name, content)
        asked = Source(path=path, splits=SPLITS, setting="data.general.path")
        with pytest.raises(UserError, match=re.escape(f"data.general: {said}")):
            list(texts(asked, "train"))


def test_errors_name_the_setting_that_the_path_is_set_by(tmp_path):
    missing = Source(path=tmp_path / "no", splits=SPLITS, setting="some.path")
    empty = Source(path=put(tmp_path, "a.jsonl", b""), splits=SPLITS, setting="some.path")
    nothing = Source(splits=SPLITS, setting="some.path")
    for asked, said in (
        (missing, f"some.path={tmp_path}/no: "),
        (empty, f"some.path={tmp_path}/a.jsonl has no rows"),
        (nothing, "set some.path=FILE_OR_FOLDER"),
    ):
        with pytest.raises(UserError, match=re.escape(said)):
            list(asked.rows("train"))


@pytest.mark.parametrize("bad", [1, 3, 4, 5])
def test_the_first_bad_row_stops_with_the_flag_that_leaves_it_out(tmp_path, bad):
    lines = BAD.splitlines()
    path = put(tmp_path, "train.jsonl", b"\n".join([lines[0], lines[bad]]))
    with pytest.raises(UserError, match=r"^train\.jsonl line 2: .*task\.on_bad_row=skip") as caught:
        parsed(source(path).rows("train"), problem, "raise")
    assert isinstance(caught.value.__cause__, RowError)


def test_when_all_rows_are_bad_skipping_stops_too(tmp_path):
    path = put(tmp_path, "train.jsonl", b'{"q": 1}\n{"q": 2}\n')
    with pytest.raises(
        UserError, match=r"no row can be used, of 2: train\.jsonl line 1: expected a"
    ):
        parsed(source(path).rows("train"), problem, "skip")


def test_a_row_that_is_not_asked_is_left_out_whatever_is_said_of_bad_ones(tmp_path, caplog):
    def some(row: Row) -> Problem:
        if row.number == 1:
            raise NotAsked(f"{row.where}: not of this kind")
        return Problem(str(row.number), "", "")

    rows = source(put(tmp_path, "train.jsonl", b"{}\n{}\n{}\n")).rows("train")
    with caplog.at_level(logging.WARNING, "star_exp"):
        problems, left_out = parsed(rows, some, "raise")
    assert [problem.id for problem in problems] == ["0", "2"]
    assert [str(error) for error in left_out] == ["train.jsonl line 2: not of this kind"]
    assert not caplog.messages  # no warning


def test_another_error_of_the_task_is_not_a_bad_row(tmp_path):
    path = put(tmp_path, "train.jsonl", b'{"q": 1}\n')
    with pytest.raises(ZeroDivisionError):
        parsed(source(path).rows("train"), lambda _: Problem(str(1 // 0), "", ""), "skip")
