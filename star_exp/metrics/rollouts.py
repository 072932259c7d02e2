"""How rollouts give the numbers: pure functions over lists of rollouts.

A rollout whose check failed is neither right nor wrong: whatever counts right ones leaves it out,
and with it a problem of which nothing could be judged. `check_failed` says how many there were.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from statistics import fmean

from star_exp.checking.numbers import bare
from star_exp.equations import equations
from star_exp.metrics.estimators import (
    bootstrap_interval,
    majority_at_k,
    pass_at_k,
    pass_at_k_s,
    sizes,
    wilson_interval,
)
from star_exp.records import Rollout
from star_exp.store import by_problem

Written = Callable[[str], Sequence[str]]  # the equations that a text is written with
SEVERAL = 4  # s of pass@k-s and reward@k-s, as B-STaR measures them


def sampled(
    phase: str, rollouts: Sequence[Rollout], split: str, written: Written = equations
) -> dict[str, float]:
    """The metrics of one phase's rollouts; {} if there are none, never zeros.

    Where every problem has two samples or more, what these say is among them: see `of_several`.
    split: the metric that is also given for each group of problems: "accuracy" or "coverage".
    written: the task's equations, Task.equations; here and below.
    """
    if not rollouts:
        return {}
    values = {
        "problems": float(len(by_problem(rollouts))),
        "truncated": _share(rollout.truncated for rollout in rollouts),
        "unanswered": _share(rollout.answer is None for rollout in rollouts),
        "check_failed": _share(rollout.failed is not None for rollout in rollouts),
        "length": fmean(len(rollout.tokens) for rollout in rollouts),
        "tokens": float(sum(sampled_tokens(rollout) for rollout in rollouts)),
        "prompt_tokens": float(sum(rollout.prompt_tokens for rollout in rollouts)),
    }
    if known := judged(rollouts):
        function = {"accuracy": accuracy, "coverage": coverage}[split]
        values |= {"accuracy": accuracy(known), "lenient_accuracy": lenient_accuracy(known)}
        values |= {split: function(known)}
        values |= {name: fmean(of.values()) for name, of in of_several(rollouts, written).items()}
        values |= {f"{split}/{group}": function(part) for group, part in by_group(known).items()}
    return {f"{phase}/{name}": value for name, value in values.items()}


def judged(rollouts: Sequence[Rollout]) -> list[Rollout]:
    """Those whose check did not fail."""
    return [rollout for rollout in rollouts if rollout.failed is None]


def per_problem(
    rollouts: Sequence[Rollout], written: Written = equations
) -> dict[str, dict[str, float]]:
    """{"accuracy": {problem: value}, "lenient_accuracy": ..., "pass@1": ..., "majority@1": ...}."""
    problems = by_problem(judged(rollouts))
    return {
        "accuracy": {problem: accuracy(part) for problem, part in problems.items()},
        "lenient_accuracy": {problem: lenient_accuracy(part) for problem, part in problems.items()},
        **of_several(rollouts, written),
    }


def of_several(
    rollouts: Sequence[Rollout], written: Written = equations
) -> dict[str, dict[str, float]]:
    """pass@k, pass@k-s, majority@k and distinct equations of each problem; k up to the fewest
    samples. {} if that is one, and without what no problem has."""
    fewest = min(len(part) for part in by_problem(rollouts).values())
    ks = sizes(fewest) if fewest > 1 else []
    found = {
        **{f"pass@{k}": passes(rollouts, k) for k in ks},
        **{f"pass@{k}-{SEVERAL}": several_passes(rollouts, k, SEVERAL) for k in ks if k >= SEVERAL},
        **{f"majority@{k}": majorities(rollouts, k) for k in ks},
        "distinct_equations": distinct_equations(rollouts, written) if ks else {},
    }
    return {name: of for name, of in found.items() if of}


def intervals(
    phase: str, rollouts: Sequence[Rollout], written: Written = equations
) -> dict[str, tuple[float, float]]:
    """95% intervals, over problems, of accuracy (of each group too) and of `of_several`.

    Wilson's where each problem has one sample, for it holds near 0 and 1 too, where the bootstrap
    of flags has no width; else the bootstrap's. {} if there are none.
    """
    if not (known := judged(rollouts)):
        return {}
    values = per_problem(rollouts, written)
    for group, part in by_group(known).items():
        problems = by_problem(part)
        values[f"accuracy/{group}"] = {name: values["accuracy"][name] for name in problems}
    single = len(by_problem(rollouts)) == len(rollouts)
    interval = _interval_of_flags if single else bootstrap_interval
    return {f"{phase}/{name}": interval(of.values()) for name, of in values.items()}


def passes(rollouts: Sequence[Rollout], k: int) -> dict[str, float]:
    """pass@k of each problem. ValueError if one has fewer than `k` samples.

    Where fewer than `k` could be judged, of all that could.
    """
    return {
        problem: pass_at_k(len(part), sum(rollout.correct for rollout in part), size)
        for problem, part, size in _drawn(rollouts, k)
    }


def several_passes(rollouts: Sequence[Rollout], k: int, s: int) -> dict[str, float]:
    """pass@k-s of each problem, in which texts tell right ones apart; otherwise as `passes`.

    A problem of which fewer than `s` could be judged is left out.
    """
    return {
        problem: pass_at_k_s(len(part), [*right_texts(part).values()], size, s)
        for problem, part, size in _drawn(rollouts, k)
        if size >= s
    }


def right_texts(rollouts: Sequence[Rollout]) -> Counter[str]:
    """The different texts that are right and were not cut off, and how often each was sampled."""
    return Counter(
        rollout.text for rollout in rollouts if rollout.correct and not rollout.truncated
    )


def majorities(rollouts: Sequence[Rollout], k: int) -> dict[str, float]:
    """majority@k of each problem. ValueError if one has fewer than `k` samples.

    A text that was cut off doesn't vote: what it says last is not its answer. Where fewer than `k`
    could be judged, these all vote.
    """
    return {
        problem: majority_at_k([(vote(rollout), rollout.correct) for rollout in part], size)
        for problem, part, size in _drawn(rollouts, k)
    }


def vote(rollout: Rollout) -> str | None:
    """What a rollout votes for: its answer, the same for the same number, or for the same text but
    for case and blanks. A text that was cut off has none.

    Whether it is right plays no part: programs that pass the same tests are not one answer.
    """
    if rollout.truncated or rollout.answer is None:
        return None
    return bare(rollout.answer) or " ".join(rollout.answer.split()).casefold()


def diversity(phase: str, rollouts: Sequence[Rollout]) -> dict[str, float]:
    """How much the texts of a phase differ; {} if there are none."""
    if not rollouts:
        return {}
    texts = [rollout.tokens for rollout in rollouts]
    values = {"distinct_share": distinct_share(texts), "distinct_4": distinct_n(texts, 4)}
    bleu = self_bleu(texts)
    if bleu is not None:
        values["self_bleu"] = bleu
    return {f"{phase}/{name}": value for name, value in values.items()}


def training(
    generated: Sequence[Rollout], rationalized: Sequence[Rollout], problems: int
) -> dict[str, float]:
    """Coverage of the two ways to a rationale, over the `problems` that were drawn."""
    values = {"train/coverage": coverage([*generated, *rationalized])}
    for group, part in by_group(judged([*generated, *rationalized])).items():
        values[f"train/coverage/{group}"] = coverage(part)
    if rationalized:
        found = sum(any(r.correct for r in rs) for rs in by_problem(rationalized).values())
        values["rationalize/coverage"] = found / problems
    return values


def by_group(rollouts: Sequence[Rollout]) -> dict[str, list[Rollout]]:
    """{"digits=4": its rollouts, ...} in sorted order."""
    parts: dict[str, list[Rollout]] = {}
    for rollout in rollouts:
        for name, value in rollout.groups.items():
            parts.setdefault(f"{name}={value}", []).append(rollout)
    return dict(sorted(parts.items()))


def accuracy(rollouts: Sequence[Rollout]) -> float:
    """Share of rollouts that are right: pass@1, averaged over samples. 0 if none was judged."""
    return _share(rollout.correct for rollout in judged(rollouts))


def lenient_accuracy(rollouts: Sequence[Rollout]) -> float:
    """Share of rollouts in which a looser reading finds the right answer."""
    return _share(rollout.lenient for rollout in judged(rollouts))


def coverage(rollouts: Sequence[Rollout]) -> float:
    """Share of problems with at least one right rollout."""
    return _share(any(r.correct for r in rs) for rs in by_problem(judged(rollouts)).values())


def sampled_tokens(rollout: Rollout) -> int:
    return sum(len(segment.tokens) for segment in rollout.segments if segment.sampled)


def distinct_share(texts: Sequence[tuple[int, ...]]) -> float:
    """Number of distinct texts over number of texts, pooled over problems and samples."""
    return len(set(texts)) / len(texts)


def distinct_n(texts: Sequence[tuple[int, ...]], n: int) -> float:
    """Distinct n-grams over all n-grams, pooled (Li et al. 2016, arXiv:1510.03055, section 5)."""
    grams = Counter(text[start : start + n] for text in texts for start in range(len(text) - n + 1))
    return len(grams) / max(1, sum(grams.values()))


def self_bleu(texts: Sequence[tuple[int, ...]], hypotheses: int = 50) -> float | None:
    """Mean BLEU-4 of a text against the others as references, in [0, 1]: 1 is no diversity.

    Zhu et al. 2018 (arXiv:1802.01886), over tokens and on `hypotheses` texts drawn with a fixed
    seed, since its cost is quadratic. None for fewer than two texts.
    """
    from sacrebleu.metrics.bleu import BLEU

    if len(texts) < 2:
        return None
    chosen = random.Random(0).sample(list(texts), min(hypotheses, len(texts)))
    lines = [" ".join(map(str, text)) for text in chosen]
    bleu = BLEU(effective_order=True, tokenize="none")
    scores = [
        bleu.sentence_score(line, [*lines[:index], *lines[index + 1 :]]).score
        for index, line in enumerate(lines)
    ]
    return sum(scores) / len(scores) / 100


def distinct_equations(
    rollouts: Sequence[Rollout], written: Written = equations
) -> dict[str, float]:
    """Distinct equations over all equations of right texts, for each problem that has any.

    Wu et al. 2024; B-STaR (arXiv:2412.17256, section 2.2). One text alone says little: 1, mostly.
    """
    found = {}
    for problem, part in by_problem(judged(rollouts)).items():
        counts: Counter[str] = Counter()
        for text, number in right_texts(part).items():
            for equation in written(text):
                counts[equation] += number
        if counts:
            found[problem] = len(counts) / counts.total()
    return found


def _drawn(rollouts: Sequence[Rollout], k: int) -> Iterator[tuple[str, list[Rollout], int]]:
    """Each problem, its judged rollouts, and how many of these are drawn: `k`, or all if fewer."""
    for problem, part in by_problem(rollouts).items():
        if not 1 <= k <= len(part):
            raise ValueError(f"{problem}: k={k} of {len(part)} samples: expected 1 to {len(part)}")
        if known := judged(part):
            yield problem, known, min(k, len(known))


def _interval_of_flags(flags: Iterable[float]) -> tuple[float, float]:
    flags = list(flags)
    return wilson_interval(sum(flags), len(flags))


def _share(flags: Iterable[bool]) -> float:
    """Of none it is 0."""
    flags = list(flags)
    return sum(flags) / max(1, len(flags))
