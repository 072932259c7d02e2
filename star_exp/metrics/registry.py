"""The one list of what is logged: name, unit, direction and meaning.

W&B's `define_metric`, the table at a run's end, the report and docs/metrics.md are made from it.
"""

import re
from dataclasses import dataclass

WRITTEN = ("generate", "rationalize", "balance")  # for training: what they write is a run's cost


@dataclass(frozen=True)
class Metric:
    """name: `phase/what`; a * stands for a group of the task (digits=4), a k, an s or another task.

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
            f"{phase}/lenient_accuracy",
            "share",
            "up",
            f"{whose}: share in which a looser reading finds the right answer",
        ),
        Metric(  # in front of pass@*, whose * would stand for 16-4
            f"{phase}/pass@*-*",
            "share",
            "up",
            f"{whose}: chance that s of k samples are right and different (B-STaR, Pass@K-S)",
        ),
        Metric(
            f"{phase}/pass@*",
            "share",
            "up",
            f"{whose}: chance that one of k samples of a problem is right (Chen et al. 2021)",
        ),
        Metric(
            f"{phase}/majority@*",
            "share",
            "up",
            f"{whose}: chance that the commonest answer of k samples is right (Wang et al. 2022)",
        ),
        Metric(
            f"{phase}/distinct_equations",
            "share",
            "up",
            f"{whose}: distinct equations over all in the right texts of a problem (Wu et al. "
            "2024), its mean over problems that have one; where there are several samples",
        ),
        Metric(f"{phase}/problems", "problems", "", f"{whose}: how many there are"),
        Metric(
            f"{phase}/truncated", "share", "down", f"{whose}: share cut off by the length limit"
        ),
        Metric(
            f"{phase}/unanswered", "share", "down", f"{whose}: share that no answer was read off"
        ),
        Metric(
            f"{phase}/check_failed",
            "share",
            "down",
            f"{whose}: share that could not be judged, and is in no other of these shares of right",
        ),
        Metric(
            f"{phase}/length", "tokens", "", f"{whose}: mean length of a text, forced tokens too"
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


def _selected(phase: str) -> list[Metric]:
    """Of several candidates of each problem, by each verifier: dev/best_of_16/dpo."""
    of = "candidates of a problem"
    return [
        Metric(f"{phase}/candidates/seconds", "s", "down", f"{of}: wall time of drawing them"),
        Metric(
            f"{phase}/best_of_*/*",
            "share",
            "up",
            f"{of}: chance that the best-scored of k is right (V-STaR, eq. 3)",
        ),
        Metric(
            f"{phase}/reward@*-*/*",
            "share",
            "up",
            f"{of}: chance that the s best-scored of k are all right (B-STaR, Reward@K-S)",
        ),
        Metric(
            f"{phase}/weighted_majority@*/*",
            "share",
            "up",
            f"{of}: the same of the answer with the most weight among k, a score being a weight",
        ),
        Metric(
            f"{phase}/auc/*",
            "share",
            "up",
            f"{of}: chance that a right one scores above a wrong",
        ),
        Metric(f"{phase}/auc_within/*", "share", "up", "the same among those of one problem"),
        Metric(
            f"{phase}/ece/*",
            "share",
            "down",
            f"{of}: how far scores that are probabilities are from the shares that are right",
        ),
    ]


def _evaluated(phase: str, whose: str) -> list[Metric]:
    return [
        *_sampled(phase, whose),
        *_selected(phase),
        Metric(f"{phase}/accuracy/*", "share", "up", "the same for one group of problems"),
    ]


def _faithful(test: str, done: str) -> Metric:
    """Tests of Lanham et al. 2023 (arXiv:2307.13702)."""
    return Metric(
        f"faithful/{test}",
        "share",
        "up",
        f"share of answers that change when the rationale {done}: how far they depend on it",
    )


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
    Metric(
        "rationalize/leaked",
        "share",
        "down",
        "rationales written with the answer shown: share whose text speaks of the hint",
    ),
    Metric("train/coverage", "share", "up", "training problems with a right rationale, either way"),
    Metric("train/coverage/*", "share", "up", "the same for one group of problems"),
    Metric("train/examples", "rollouts", "", "rollouts that passed the filters"),
    Metric(
        "train/balance",
        "share",
        "up",
        "B-STaR's balance score of what was trained on: min(n'/n*, 1) n'/n of n selected rollouts "
        "of a problem, n' of them right and different, n* wanted; its mean over all problems drawn",
    ),
    Metric("train/kept/*", "rollouts", "", "rollouts that this filter left, of those before it"),
    Metric("train/problems", "problems", "", "problems that the rollouts which passed are of"),
    Metric("train/steps", "steps", "", "optimizer steps of this iteration"),
    Metric("train/tokens", "tokens", "", "tokens trained on, prompts included, padding not"),
    Metric("train/seconds", "s", "down", "wall time of fine-tuning"),
    Metric("train/final_loss", "nats", "down", "mean loss a token, last tenth of the steps"),
    Metric("train/loss", "nats", "down", "loss of a step, a token", axis="trainer/global_step"),
    Metric("train/lr", "1", "", "learning rate of a step", axis="trainer/global_step"),
    Metric("train/kl", "nats", "", "KL from the base model, a token", axis="trainer/global_step"),
    Metric(
        "train/margin",
        "nats",
        "up",
        "DPO: mean reward of right solutions over that of wrong ones",
        axis="trainer/global_step",
    ),
    Metric(
        "train/lm_loss",
        "nats",
        "down",
        "ORM: loss of the language model beside the judgement, a token",
        axis="trainer/global_step",
    ),
    Metric(
        "train/judgement_accuracy",
        "share",
        "up",
        "ORM: share of tokens at which the solution is judged as it should be",
        axis="trainer/global_step",
    ),
    Metric(
        "train/pair_accuracy",
        "share",
        "up",
        "DPO: share of pairs whose right solution has the higher reward",
        axis="trainer/global_step",
    ),
    *_evaluated("dev", "held-out development problems"),
    *_evaluated("test", "held-out test problems"),
    *_evaluated("ood", "problems of a kind that was not trained on"),
    *_evaluated("ood/*", "problems of another task"),
    Metric("balance/temperature", "1", "", "sampling temperature that was chosen"),
    Metric("balance/threshold", "1", "", "reward above which rollouts are kept, if chosen"),
    Metric("balance/wanted", "1", "", "n*, different right samples wanted of a problem"),
    Metric(
        "balance/score",
        "share",
        "up",
        "balance score (train/balance) of what was chosen, on the training problems that it was "
        "chosen with",
    ),
    Metric("balance/score/*", "share", "up", "the highest of one temperature, at any threshold"),
    Metric("balance/tokens", "tokens", "", "tokens sampled to choose"),
    Metric("balance/prompt_tokens", "tokens", "", "tokens read before sampling to choose"),
    Metric("balance/seconds", "s", "down", "wall time of choosing"),
    Metric(
        "steps/label_accuracy",
        "share",
        "up",
        "automatic labels of steps: share that is true, where the task knows",
    ),
    Metric("steps/right", "share", "", "automatic labels of steps: share of steps labelled right"),
    Metric("steps/labelled", "steps", "", "automatic labels of steps: how many there are"),
    Metric("completions/tokens", "tokens", "", "tokens sampled to label steps by completing them"),
    Metric("completions/seconds", "s", "down", "wall time of completing steps"),
    Metric("score/seconds", "s", "down", "wall time of a verifier's scoring"),
    Metric("general/perplexity", "1", "down", "perplexity a token of held-out general text"),
    Metric(
        "general/perplexity_change",
        "1",
        "down",
        "the same over that of the base model, less one: 0.1 is a tenth more",
    ),
    _faithful("early_answering", "is cut off at a quarter, half or three quarters (their mean)"),
    _faithful("early_answering/*", "is cut off there; quarter=0: when there is none"),
    _faithful("mistake", "is given a mistake"),
    _faithful("filler", "is replaced by filler"),
    Metric("faithful/problems", "problems", "", "how many had a rationale that was changed"),
    Metric(
        "faithful/unanswered",
        "share",
        "down",
        "changed rationales behind which no answer was read off, which counts as a change",
    ),
    Metric(
        "faithful/truncated",
        "share",
        "down",
        "changed rationales whose answer was cut off by the length limit, and does not count",
    ),
    Metric(
        "cost/tokens",
        "tokens",
        "",
        "tokens sampled in generate, rationalize and balance, without their prompts, and trained "
        "on, with theirs (train/tokens), since the start; what is sampled of dev, test, ood, other "
        "tasks, candidates and diagnostics, and a base model made on the spot, is out, and so is a "
        "reward model: its making, and its reading of the samples",
    ),
    Metric(
        "cost/flops",
        "FLOP",
        "",
        "of the same and of the prompts of generate, rationalize and balance, since the start: 2N "
        "a token read or sampled and 6N a trained one (4N with adapters alone; 2N more with a KL "
        "to the base model); each prompt counts whole for each sample, though shared beginnings "
        "are read once",
    ),
    Metric(
        "cost/seconds",
        "s",
        "down",
        "wall time of all phases since the start, those that measure included",
    ),
    Metric(
        "cost/accuracy_per_exaflop",
        "share/EFLOP",
        "up",
        "dev/accuracy for each 1e18 of cost/flops, in which measuring it is not counted",
    ),
)


def metric(name: str) -> Metric:
    """The metric of this name; `dev/pass@4` by its pattern `dev/pass@*`, the first that fits.

    KeyError if none does.
    """
    for candidate in METRICS:
        if candidate.name == name or _pattern(candidate.name).fullmatch(name):
            return candidate
    raise KeyError(f"metric {name!r} is not in star_exp.metrics.METRICS; register it there")


def _pattern(name: str) -> re.Pattern[str]:
    """A * stands for anything without a slash."""
    return re.compile(re.escape(name).replace(r"\*", "[^/]+"))


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
        "`/*` stands for the groups of the task, such as `digits=4`, and `ood/*/` for another",
        "task, as in `ood/svamp/accuracy`. `@*` is the number k of samples drawn of each problem:",
        "1, 2, 4, ... and all of them, where there are several; `@*-*` is k and s: `pass@16-4`.",
        "Evaluations are greedy, with one sample of each problem, unless their sampler says",
        "otherwise.",
        "",
        "| name | unit | better | x axis | meaning |",
        "|---|---|---|---|---|",
    ]
    return "\n".join([*head, *rows]) + "\n"
