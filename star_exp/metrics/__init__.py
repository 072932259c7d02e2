"""Every number that is logged: its name and meaning, how rollouts give it, and how sure it is.

registry.py    `METRICS`, the one list of names, from which docs/metrics.md is made
rollouts.py    what is logged, from lists of rollouts: computed again from the store at any time
estimators.py  pass@k, majority@k, best-of-k, reward@k-s and intervals, from counts and scores
calibration.py whether scores tell right from wrong: AUC, ECE
selection.py   what is logged of candidates: which of several a verifier or a vote picks
balance.py     B-STaR's balance score of what is selected to train on
"""

from star_exp.metrics.balance import balance, balance_score, balance_scores, wanted
from star_exp.metrics.calibration import auc, auc_within, ece
from star_exp.metrics.estimators import (
    best_of_k,
    bootstrap_interval,
    majority_at_k,
    paired_difference,
    pass_at_k,
    pass_at_k_s,
    reward_at_k_s,
    sizes,
    weighted_majority_at_k,
    wilson_interval,
)
from star_exp.metrics.registry import METRICS, WRITTEN, Metric, markdown, metric
from star_exp.metrics.rollouts import (
    accuracy,
    by_group,
    coverage,
    distinct_equations,
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
    several_passes,
    training,
    vote,
)
from star_exp.metrics.selection import best_of, candidates, selected, several_best_of

__all__ = [
    "METRICS",
    "WRITTEN",
    "Metric",
    "accuracy",
    "auc",
    "auc_within",
    "balance",
    "balance_score",
    "balance_scores",
    "best_of",
    "best_of_k",
    "bootstrap_interval",
    "by_group",
    "candidates",
    "coverage",
    "distinct_equations",
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
    "pass_at_k_s",
    "passes",
    "per_problem",
    "reward_at_k_s",
    "sampled",
    "sampled_tokens",
    "selected",
    "self_bleu",
    "several_best_of",
    "several_passes",
    "sizes",
    "training",
    "vote",
    "wanted",
    "weighted_majority_at_k",
    "wilson_interval",
]
