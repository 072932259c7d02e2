"""Small datasets in the forms of the real ones, made for tests: `local(name, folder)`."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

Row = dict[str, Any]
PLACES = ("shed", "pond", "barn", "attic", "cellar")


def gsm8k(n: int) -> Row:
    solution = f"She has {n}+1,000 = <<{n}+1000={n + 1000}>>{n + 1000:,} nuts.\n#### {n + 1000:,}"
    return {"question": f"Ann has {n} nuts and finds 1,000. How many has she?", "answer": solution}


def commonsense_qa(n: int) -> Row:
    """Rows 1, 3, 4, 5, 8, 10 and 11 have the answers that the exemplars of conf expect."""
    key = {8: "E", 5: "D", 4: "C", 1: "B", 10: "B", 3: "D", 11: "C"}.get(n, "ABCDE"[n % 5])
    choices = {"label": list("ABCDE"), "text": [f"{place} {n}" for place in PLACES]}
    return {"id": f"c{n}", "question": f"Where is thing {n}?", "choices": choices, "answerKey": key}


def svamp(n: int) -> Row:
    return {
        "ID": f"chal-{n}",
        "Body": f"Bo had {n} pens,",
        "Question": "How many?",
        "Answer": n / 1,
    }


def multiarith(n: int) -> Row:
    return {"question": f"What is {n} and {n}?", "final_ans": str(2 * n)}


def asdiv(n: int) -> Row:
    answer = f"{n} (pens)" if n % 5 else "Bo"
    return {"body": f"Bo has {n} pens.", "question": "How many?", "answer": answer}


def aqua_rat(n: int) -> Row:
    options = [f"{letter}){n - n % 5 + place}" for place, letter in enumerate("ABCDE")]
    correct = "ABCDE"[n % 5]
    return {"question": f"What is {n}?", "options": options, "rationale": "", "correct": correct}


def strategyqa(n: int) -> Row:
    return {"qid": f"q{n}", "question": f"Is {n} even?", "answer": n % 2 == 0}


def math(n: int) -> Row:
    solution = rf"Halving gives $\boxed{{\frac{{{n}}}{{2}}}}$."
    row = {"problem": f"What is half of ${n}$?", "level": f"Level {n % 5 + 1}", "type": "Algebra"}
    return {**row, "solution": solution, "unique_id": f"train/algebra/{n}.json"}


def math500(n: int) -> Row:
    return {**math(n), "answer": rf"\frac{{{n}}}{{2}}", "level": n % 5 + 1}


def jsonl(n: int) -> Row:
    return {"question": f"Which plant is number {n}?", "answer": f"Fern {n}"}


ROWS: dict[str, Callable[[int], Row]] = {
    "gsm8k": gsm8k,
    "commonsense_qa": commonsense_qa,
    "svamp": svamp,
    "multiarith": multiarith,
    "asdiv": asdiv,
    "aqua_rat": aqua_rat,
    "strategyqa": strategyqa,
    "math": math,
    "math500": math500,
    "jsonl": jsonl,
}


# Those that the hub has, or the authors' files: the test splits of CommonsenseQA and StrategyQA
# have no answers there. `jsonl` is a folder of one's own.
SPLITS: dict[str, tuple[str, ...]] = {
    "gsm8k": ("train", "test"),
    "commonsense_qa": ("train", "dev"),
    "svamp": ("train", "test"),
    "multiarith": ("train", "test"),
    "asdiv": ("test",),
    "aqua_rat": ("train", "dev", "test"),
    "strategyqa": ("train", "dev"),
    "math": ("train", "test"),
    "math500": ("test",),
    "jsonl": ("train", "dev", "test"),
}


def local(name: str, folder: Path, rows: int = 60) -> list[str]:
    """Writes the files of a task, `rows` rows each, no two alike; the overrides that read them."""
    folder = folder / name
    folder.mkdir(parents=True, exist_ok=True)
    for place, split in enumerate(SPLITS[name]):
        write(folder / f"{split}.jsonl", [ROWS[name](place * rows + n) for n in range(rows)])
    return [f"task={name}", f"task.path={folder}"]


def write(path: Path, rows: Iterable[Row]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
