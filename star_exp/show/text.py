"""Rollouts as plain text, for a pipe, a file or a screen reader.

iteration  phase        rollouts    right
        1  generate           60     3.3%

iteration 1  generate  train/116  sample 0  wrong  truncated
  question   1+7
  gold       8
  answer     none was found
  rationale  411 411 411
  logprob    -10.49 nats, 8 tokens sampled after a prompt of 4
  seed       5741875236053184830, weights 867e60a0586481d0
"""

import re
from collections.abc import Iterator

from star_exp.metrics import sampled_tokens
from star_exp.records import Rollout
from star_exp.show.index import Index, Selection, counts, either_way, select, spans

LIMIT = 20
# Escape sequences would command the terminal, and marks of writing direction rearrange a line.
UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]"
)


def report(index: Index, selection: Selection, limit: int) -> Iterator[str]:
    """What `star-exp show` prints: the counts, `limit` rollouts (0 for all), how many there are.

    Read from the disk shard by shard, as it is asked for.
    """
    around = select(index.table, either_way(selection))
    chosen = select(around, selection)
    yield from count_lines(around if len(around) else index.table)
    shown = chosen.slice(0, limit or None).select(["shard", "row"])
    for batch in shown.to_batches(max_chunksize=1000):
        for place in batch.to_pylist():
            yield f"\n{block(index.rollout(**place))}"
    if not len(chosen):
        yield f"\nno rollouts: {describe(selection)}; the run has those counted above"
    elif len(shown) < len(chosen):
        yield f"\n{len(shown):,} of {len(chosen):,} rollouts shown; --limit 0 shows all"


def count_lines(table) -> Iterator[str]:
    """A table of rollouts and the share of right ones, an iteration and phase a line."""
    groups = counts(table)
    wide = max(len("phase"), *(len(group.phase) for group in groups))
    yield f"iteration  {'phase':{wide}}  rollouts    right"
    for group in groups:
        yield (
            f"{group.iteration:9}  {group.phase:{wide}}  {group.rollouts:8,}  "
            f"{group.right / group.rollouts:7.1%}"
        )


def block(rollout: Rollout) -> str:
    """A rollout, whole, on as many lines as its texts have and some more."""
    values = fields(rollout)
    wide = max(map(len, values))
    lines = [heading(rollout)]
    for name, value in values.items():
        first, *others = value.split("\n")
        lines.append(f"  {name:{wide}}  {first}")
        lines += [f"  {'':{wide}}  {line}" for line in others]
    return "\n".join(line.rstrip() for line in lines)


def heading(rollout: Rollout) -> str:
    """Which rollout this is, and how it was judged."""
    marks = [
        "right" if rollout.correct else "wrong",
        *(["truncated"] if rollout.truncated else []),
        *(["hinted"] if rollout.hinted else []),
    ]
    where = f"iteration {rollout.iteration}  {rollout.phase}  {rollout.problem}"
    return printable(f"{where}  sample {rollout.sample}  {'  '.join(marks)}")


def fields(rollout: Rollout) -> dict[str, str]:
    """All of a rollout that is for people, by name, safe to print."""
    known = any(segment.logprobs for segment in rollout.segments)
    logprob = f"{rollout.logprob:.2f} nats" if known else "not known"
    values = {
        "question": rollout.question,
        "gold": rollout.gold,
        "answer": "none was found" if rollout.answer is None else rollout.answer,
        "rationale": rollout.text,
        "logprob": f"{logprob}, {sampled_tokens(rollout)} tokens sampled "
        f"after a prompt of {rollout.prompt_tokens}",
        "seed": f"{rollout.seed}, weights {rollout.weights}",
        "groups": ", ".join(f"{name}={value}" for name, value in rollout.groups.items()),
        "scores": ", ".join(f"{name}={value:g}" for name, value in rollout.scores.items()),
    }
    always = set(values) - {"groups", "scores"}
    return {name: printable(value) for name, value in values.items() if value or name in always}


def describe(selection: Selection) -> str:
    """A selection in words: "iteration 1-3, generate, wrong"."""
    right = {None: "right and wrong", True: "right", False: "wrong"}[selection.correct]
    parts = [
        f"iteration {spans(selection.iterations)}" if selection.iterations else "all iterations",
        selection.phase or "all phases",
        right,
        f"problem {selection.problem}" if selection.problem is not None else "",
        f"with {selection.text!r}" if selection.text else "",
    ]
    return printable(", ".join(part for part in parts if part))


def printable(text: str) -> str:
    r"""The text with control characters spelled out, newlines and tabs aside: "\x1b[31m"."""
    return UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def one_line(text: str, wide: int) -> str:
    """The text on a line of at most `wide` characters, cut at an ellipsis."""
    line = printable(" ".join(text[: 4 * wide].split()))
    cut = len(line) > wide or len(text) > 4 * wide
    return f"{line[: wide - 1]}…" if cut else line
