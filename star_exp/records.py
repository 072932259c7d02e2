"""What is passed around: a problem, what a model wrote for it, and how that was judged.

Three frozen dataclasses and nothing that imports torch. A rollout does not hold its prompt: a
prompt is made from the problem, `Task.prompt(problem)`, so that the text a rationalized rollout is
trained with cannot contain the hint it was sampled with.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Problem:
    """A question whose answer is known.

    id: stable across runs, unique within a task: `train/17`.
    answer: in the task's canonical form, what `Task.extract` must return for a right completion.
    groups: what metrics are split by: {"digits": "4"} gives `dev/accuracy/digits=4`.
    """

    id: str
    question: str
    answer: str
    groups: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Segment:
    """A piece of a completion: sampled from the model, or forced into it (a tool's output, a hint).

    logprobs: of each token under the untempered model, where they are known, else empty.
    """

    text: str
    tokens: tuple[int, ...]
    sampled: bool = True
    logprobs: tuple[float, ...] = ()


@dataclass(frozen=True)
class Rollout:
    """One completion of one problem, judged.

    iteration: the outer iteration that this was written for; `phase` the phase that wrote it.
    hinted: whether the prompt showed the answer.
    answer: what the completion answers, canonical; None where none could be read off.
    prompt_tokens: how many tokens were read before the first was written.
    truncated: the length limit came before the end; such a rollout is never trained on.
    lenient: whether a looser reading of the text finds the right answer, truncated or not.
    failed: what the checker failed with, None where it judged; then the rollout is neither right
        nor wrong, and counts as not right.
    seed: of this sample alone; weights: fingerprint of the model that wrote it.
    scores: what reward models gave it, by name.
    """

    problem: str
    question: str
    gold: str
    groups: Mapping[str, str]
    iteration: int
    phase: str
    sample: int
    hinted: bool
    prompt_tokens: int
    segments: tuple[Segment, ...]
    answer: str | None
    correct: bool
    truncated: bool
    seed: int
    weights: str
    scores: Mapping[str, float] = field(default_factory=dict)
    lenient: bool = False
    failed: str | None = None

    @property
    def asked(self) -> Problem:
        """The problem that this is a completion of."""
        return Problem(self.problem, self.question, self.gold, self.groups)

    @property
    def text(self) -> str:
        return "".join(segment.text for segment in self.segments)

    @property
    def tokens(self) -> tuple[int, ...]:
        return tuple(token for segment in self.segments for token in segment.tokens)

    @property
    def logprob(self) -> float:
        """Log-probability of the sampled tokens under the untempered model, in nats."""
        return sum(logprob for segment in self.segments for logprob in segment.logprobs)

    @property
    def reward(self) -> float:
        """1 for the right answer, and what reward models gave (B-STaR, eq. 1 and 2)."""
        return self.correct + sum(self.scores.values())
