"""Every number that is logged: name, unit, direction, meaning, and how rollouts give it.

`METRICS` is the one list of names: W&B's `define_metric`, the table at a run's end, the report and
docs/metrics.md are made from it. The functions below it are pure, over lists of rollouts, so that
whatever was logged can be computed again from the store.
"""

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from star_exp.records import Rollout
from star_exp.store import by_problem


@dataclass(frozen=True)
class Metric:
    """name: `phase/what`; a trailing /* stands for the groups of the task, as in digits=4.

    better: "up", "down" or "" where neither is better. axis: what it is plotted over.
    """

    name: str
    unit: str
    better: str
    meaning: str
    axis: str = "iteration"


def _sampled(phase: str, whose: str) -> list[Metric]:
    return [
        Metric(f"{phase}/accuracy", "share", "up", f"{whose}: share of rollouts that are right"),
        Metric(
            f"{phase}/truncated", "share", "down", f"{whose}: share cut off by the length limit"
        ),
        Metric(
            f"{phase}/unanswered", "share", "down", f"{whose}: share that no answer was read off"
        ),
        Metric(f"{phase}/tokens", "tokens", "", f"{whose}: tokens sampled"),
        Metric(f"{phase}/prompt_tokens", "tokens", "", f"{whose}: tokens read before sampling"),
        Metric(f"{phase}/seconds", "s", "down", f"{whose}: wall time"),
        Metric(f"{phase}/tokens_per_s", "tokens/s", "up", f"{whose}: tokens sampled a second"),
    ]


def _diverse(phase: str, whose: str) -> list[Metric]:
    return [
        Metric(
            f"{phase}/distinct_share", "share", "up", f"{whose}: share of texts that are distinct"
        ),
        Metric(f"{phase}/distinct_4", "share", "up", f"{whose}: distinct token 4-grams over all"),
        Metric(
            f"{phase}/self_bleu", "share", "down", f"{whose}: BLEU-4 of each text against others"
        ),
    ]


METRICS: tuple[Metric, ...] = (
    *_sampled("generate", "rationales written for the question alone"),
    *_diverse("generate", "rationales written for the question alone"),
    Metric("generate/coverage", "share", "up", "training problems solved without a hint"),
    Metric("generate/coverage/*", "share", "up", "the same for one group of problems"),
    *_sampled("rationalize", "rationales written with the answer shown"),
    *_diverse("rationalize", "rationales written with the answer shown"),
    Metric("rationalize/accuracy/*", "share", "up", "the same for one group of problems"),
    Metric(
        "rationalize/coverage", "share", "up", "problems solved only with the hint, of all drawn"
    ),
    Metric("train/coverage", "share", "up", "training problems with a right rationale, either way"),
    Metric("train/coverage/*", "share", "up", "the same for one group of problems"),
    Metric("train/examples", "rollouts", "", "rollouts that passed the filters"),
    Metric("train/steps", "steps", "", "optimizer steps of this iteration"),
    Metric("train/tokens", "tokens", "", "tokens trained on, prompts included, padding not"),
    Metric("train/seconds", "s", "down", "wall time of fine-tuning"),
    Metric("train/final_loss", "nats", "down", "mean loss a token, last tenth of the steps"),
    Metric("train/loss", "nats", "down", "loss of a step, a token", axis="trainer/global_step"),
    Metric("train/lr", "1", "", "learning rate of a step", axis="trainer/global_step"),
    *_sampled("dev", "held-out development problems, greedy"),
    Metric("dev/accuracy/*", "share", "up", "the same for one group of problems"),
    *_sampled("test", "held-out test problems, greedy"),
    Metric("test/accuracy/*", "share", "up", "the same for one group of problems"),
    *_sampled("ood", "problems of a kind that was not trained on, greedy"),
    Metric("ood/accuracy/*", "share", "up", "the same for one group of problems"),
    Metric("cost/tokens", "tokens", "", "tokens generated and trained on since the start"),
    Metric(
        "cost/flops",
        "FLOP",
        "",
        "2N a token read or generated and 6N a trained one, since the start; each prompt counts "
        "whole, though shared beginnings are read once",
    ),
    Metric("cost/seconds", "s", "down", "wall time of all phases since the start"),
)


def metric(name: str) -> Metric:
    """The metric of this name; `dev/accuracy/digits=4` by its pattern. KeyError if none."""
    pattern = name.rpartition("/")[0] + "/*"
    for candidate in METRICS:
        if candidate.name == name or candidate.name == pattern:
            return candidate
    raise KeyError(f"metric {name!r} is not in star_exp.metrics.METRICS; register it there")


def sampled(phase: str, rollouts: Sequence[Rollout], split: str) -> dict[str, float]:
    """The metrics of one phase's rollouts; {} if there are none, never zeros.

    split: the metric that is also given for each group of problems: "accuracy" or "coverage".
    """
    if not rollouts:
        return {}
    function = {"accuracy": accuracy, "coverage": coverage}[split]
    values = {
        "accuracy": accuracy(rollouts),
        "truncated": _share(rollout.truncated for rollout in rollouts),
        "unanswered": _share(rollout.answer is None for rollout in rollouts),
        "tokens": float(sum(sampled_tokens(rollout) for rollout in rollouts)),
        "prompt_tokens": float(sum(rollout.prompt_tokens for rollout in rollouts)),
        split: function(rollouts),
    }
    values |= {f"{split}/{group}": function(part) for group, part in by_group(rollouts).items()}
    return {f"{phase}/{name}": value for name, value in values.items()}


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
    for group, part in by_group([*generated, *rationalized]).items():
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
    """Share of rollouts that are right: pass@1, averaged over samples."""
    return _share(rollout.correct for rollout in rollouts)


def coverage(rollouts: Sequence[Rollout]) -> float:
    """Share of problems with at least one right rollout."""
    return _share(any(r.correct for r in rs) for rs in by_problem(rollouts).values())


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


def wilson_interval(successes: float, trials: int, z: float = 1.959964) -> tuple[float, float]:
    """95% score interval of a share (Wilson 1927). Raises ValueError without trials."""
    if trials < 1:
        raise ValueError("an interval needs at least one trial")
    share = successes / trials
    centre = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials**2))
    half /= 1 + z * z / trials
    return max(0.0, centre - half), min(1.0, centre + half)


def _share(flags) -> float:
    flags = list(flags)
    return sum(flags) / len(flags)


def markdown() -> str:
    """docs/metrics.md: every metric by name. `python -m star_exp.metrics > docs/metrics.md`."""
    arrows = {"up": "higher", "down": "lower", "": "-"}
    rows = [
        f"| `{m.name}` | {m.unit} | {arrows[m.better]} | `{m.axis}` | {m.meaning} |"
        for m in METRICS
    ]
    head = [
        "# Metrics",
        "",
        "Made from `star_exp.metrics.METRICS` by `python -m star_exp.metrics`; do not edit.",
        "`/*` stands for the groups of the task, such as `digits=4`.",
        "",
        "| name | unit | better | x axis | meaning |",
        "|---|---|---|---|---|",
    ]
    return "\n".join([*head, *rows]) + "\n"


if __name__ == "__main__":
    print(markdown(), end="")
