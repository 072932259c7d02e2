"""Rollouts for tests, with no model behind them."""

from collections.abc import Mapping, Sequence

from star_exp.records import Rollout, Segment


def segment(text: str, *, sampled: bool = True, logprobs: Sequence[float] = ()) -> Segment:
    """One token a character, its code point."""
    return Segment(text, tuple(map(ord, text)), sampled=sampled, logprobs=tuple(logprobs))


def rollout(
    problem: str = "train/0",
    text: str = "#8",
    *,
    question: str = "2+6",
    answer: str | None = "8",
    correct: bool = True,
    truncated: bool = False,
    sample: int = 0,
    phase: str = "generate",
    groups: Mapping[str, str] | None = None,
    segments: Sequence[Segment] | None = None,
    weights: str = "00000000deadbeef",
    prompt_tokens: int = 4,
    scores: Mapping[str, float] | None = None,
) -> Rollout:
    return Rollout(
        problem=problem,
        question=question,
        gold="8",
        groups={"digits": "1"} if groups is None else groups,
        iteration=1,
        phase=phase,
        sample=sample,
        hinted=phase == "rationalize",
        prompt_tokens=prompt_tokens,
        segments=tuple([segment(text)] if segments is None else segments),
        answer=answer,
        correct=correct,
        truncated=truncated,
        seed=2**63 - 1,
        weights=weights,
        scores=scores or {},
    )


def right(problem: str, text: str = "#8", **more) -> Rollout:
    return rollout(problem, text, **more)


def wrong(problem: str, text: str = "#9", answer: str | None = "9", **more) -> Rollout:
    return rollout(problem, text, answer=answer, correct=False, **more)
