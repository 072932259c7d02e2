"""Every number that is logged: its name and meaning, how rollouts give it, and how sure it is.

registry.py    `METRICS`, the one list of names, from which docs/metrics.md is made
rollouts.py    what is logged, from lists of rollouts: computed again from the store at any time
estimators.py  pass@k, majority@k and intervals, from counts and values
"""

from star_exp.metrics.estimators import (
    bootstrap_interval,
    majority_at_k,
    paired_difference,
    pass_at_k,
    sizes,
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
)

__all__ = [
    "METRICS",
    "Metric",
    "accuracy",
    "bootstrap_interval",
    "by_group",
    "coverage",
    "distinct_n",
    "distinct_share",
    "diversity",
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
    "self_bleu",
    "sizes",
    "training",
    "wilson_interval",
]
