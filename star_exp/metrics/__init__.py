"""Every number that is logged: its name and meaning, how rollouts give it, and how sure it is.

registry.py    `METRICS`, the one list of names, from which docs/metrics.md is made
rollouts.py    what is logged, from lists of rollouts: computed again from the store at any time
estimators.py  pass@k, majority@k, best-of-k and intervals, from counts, values and scores
calibration.py whether scores tell right from wrong: AUC, ECE
selection.py   what is logged of candidates: which of several a verifier or a vote picks
"""

from star_exp.metrics.calibration import auc, auc_within, ece
from star_exp.metrics.estimators import (
    best_of_k,
    bootstrap_interval,
    majority_at_k,
    paired_difference,
    pass_at_k,
    sizes,
    weighted_majority_at_k,
    wilson_interval,
)
from star_exp.metrics.registry import METRICS, Metric, markdown, metric
from star_exp.metrics.rollouts import (
    accuracy,
    by_group,
    coverage,
    distinct_n,
    distinct_share,
    diversity,
    intervals,
    majorities,
    passes,
    per_problem,
    sampled,
    sampled_tokens,
    self_bleu,
    training,
    vote,
)
from star_exp.metrics.selection import best_of, candidates, selected

__all__ = [
    "METRICS",
    "Metric",
    "accuracy",
    "auc",
    "auc_within",
    "best_of",
    "best_of_k",
    "bootstrap_interval",
    "by_group",
    "candidates",
    "coverage",
    "distinct_n",
    "distinct_share",
    "diversity",
    "ece",
    "intervals",
    "majorities",
    "majority_at_k",
    "markdown",
    "metric",
    "paired_difference",
    "pass_at_k",
    "passes",
    "per_problem",
    "sampled",
    "sampled_tokens",
    "selected",
    "self_bleu",
    "sizes",
    "training",
    "vote",
    "weighted_majority_at_k",
    "wilson_interval",
]
