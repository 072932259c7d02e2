"""What differs between rows beside the variant: settings, data, code. A reader is warned of it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from star_exp.config.compose import differences
from star_exp.report.runs import Run, decoding

# What the files of conf/variant set, and what follows from it: there a difference may be the
# variant's own. A setting below these is told if it was said on the command line. What is not
# seen: one of these that differs by an edited file of conf/, between rows of different variants.
VARIED = (
    *("callbacks", "judge", "reward", "balance", "verifier", "from"),
    *("data.phases", "data.filters", "data.history", "data.replay", "data.redraw"),
    *("data.schedule", "data.prompts.rationales"),
    *("module.rate", "sampling.temperature", "sampling.top_k"),
)
MORE = "configs differ in more than the variant"
NAMED = 6  # rows, or settings, that are told in full
ABSENT = object()
Rows = Mapping[str, Sequence[Run]]


def warnings(rows: Rows) -> list[str]:
    """Sentences on what differs between rows beside the variant."""
    runs = [run for of in rows.values() for run in of]
    told = _settings(rows, runs)
    told += _differing(rows, "number of iterations", lambda run: str(run.last) if run.last else "")
    for choice in ("task", "model"):
        told += _differing(rows, choice, lambda run, of=choice: run.config["choices"].get(of, ""))
    for key in dict.fromkeys(key for run in runs for key in run.data):
        what = f"fingerprint of the data ({key})"
        told += _differing(rows, what, lambda run, of=key: run.data.get(of, ""))
    told += _differing(rows, "decoding of evaluations", lambda run: decoding(run, "evaluate"))
    told += _differing(rows, "decoding of other tasks", lambda run: decoding(run, "other_tasks"))
    told += _differing(rows, "candidates", lambda run: decoding(run, "candidates"))
    told += _differing(rows, "commit", lambda run: _git(run).get("sha", "")[:8])
    dirty = sum(bool(_git(run).get("dirty")) for run in runs)
    if dirty:
        told.append(f"{dirty} of {len(runs)} runs were made with changes that are in no commit")
    for package in dict.fromkeys(name for run in runs for name in run.manifest.get("versions", {})):
        told += _differing(
            rows,
            f"version of {package}",
            lambda run, of=package: run.manifest.get("versions", {}).get(of, ""),
        )
    return told


def _settings(rows: Rows, runs: Sequence[Run]) -> list[str]:
    """First what was said on the command line, then what only the configs tell."""
    keys = _differing_keys(runs)
    given: dict[str, list[str]] = {}
    for name, of in rows.items():
        for word in dict.fromkeys(word for run in of for word in run.settings):
            given.setdefault(word, []).append(name)
    words = {
        word: names
        for word, names in given.items()
        if len(names) < len(rows) and _matters(_key(word), keys, runs)
    }
    told = _who_said(words, rows)
    seen = [*VARIED, *map(_key, words)]
    seen += [
        of for of in ("task", "model") if len({run.config["choices"].get(of) for run in runs}) > 1
    ]
    hidden = [key for key in keys if not _below(key, seen)]
    told += _who_has(hidden, rows)
    alike: dict[tuple[str, ...], dict[str, Sequence[Run]]] = {}
    for name, of in rows.items():
        said = sorted({word for run in of for word in run.settings} & words.keys())
        alike.setdefault((of[0].variant, *said), {})[name] = of
    for part in alike.values():  # nothing that was said tells them apart
        inside = _differing_keys([run for of in part.values() for run in of])
        told += _who_has([key for key in inside if key not in hidden], part)
    return told


def _matters(key: str, keys: Sequence[str], runs: Sequence[Run]) -> bool:
    """Not a word that says what all configs have anyhow: `+lr=1.0` for 1, or the default."""
    known = all(_value(run, key) is not ABSENT for run in runs)
    return not known or _below(key, VARIED) or any(_below(other, [key]) for other in keys)


def _who_said(words: Mapping[str, Sequence[str]], rows: Rows) -> list[str]:
    told, shared = [], {}
    for word, names in words.items():
        shared.setdefault(tuple(names), []).append(word)
    for names, said in shared.items():
        others = [name for name in rows if name not in names]
        who = (
            f"only {_listed(names)}" if len(names) <= len(others) else f"all but {_listed(others)}"
        )
        told.append(f"{MORE}: {who} had {' '.join(said)}")
    return told


def _who_has(keys: Sequence[str], rows: Rows) -> list[str]:
    told = []
    for key in keys[:NAMED]:
        found = _differing(rows, key, lambda run, of=key: _said(_value(run, of)))
        told += [f"{MORE}: {sentence}" for sentence in found]
    if more := keys[NAMED:]:
        told.append(f"{MORE}: {len(more)} more settings differ: {', '.join(more)}")
    return told


def _differing_keys(runs: Sequence[Run]) -> list[str]:
    """The settings in which some config is not as the first, but for those that are the seed."""
    first = dict(runs[0].config)
    keys = {
        line.partition(": ")[0] for run in runs[1:] for line in differences(dict(run.config), first)
    }
    if any(run.config.get("samples") != first.get("samples") for run in runs):
        keys.add("samples")  # not hashed, since the keys that it sets are
    return sorted(key for key in keys if not all(_value(run, key) == run.seed for run in runs))


def _value(run: Run, key: str) -> Any:
    node: Any = run.config
    for name in key.split("."):
        if not isinstance(node, Mapping) or name not in node:
            return ABSENT
        node = node[name]
    return node


def _said(value: Any) -> str:
    if value is ABSENT:
        return "none"
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _key(word: str) -> str:
    return word.partition("=")[0].replace("/", ".")


def _below(key: str, tops: Sequence[str]) -> bool:
    return any(key == top or key.startswith(f"{top}.") for top in tops)


def _git(run: Run) -> Mapping[str, Any]:
    return run.manifest.get("git") or {}


def _differing(rows: Rows, what: str, of: Callable[[Run], str]) -> list[str]:
    """A sentence if `of` says different things of runs, else none; "" says nothing."""
    where: dict[str, list[str]] = {}
    for name, runs in rows.items():
        said = {run.seed: of(run) for run in runs}
        for value in sorted({*said.values()} - {""}):
            seeds = [seed for seed in said if said[seed] == value]
            some = f" (seed {', '.join(map(str, seeds))})" if len(seeds) < len(said) else ""
            where.setdefault(value, []).append(f"{name}{some}")
    if len(where) < 2:
        return []
    return [f"{what} differs: " + "; ".join(f"{v} in {_listed(n)}" for v, n in where.items())]


def _listed(names: Sequence[str]) -> str:
    shown = [f'"{name}"' if "," in name else name for name in names[:NAMED]]
    return ", ".join(shown) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
