"""The sampler that configs name: rules of decoding, limits, and which engine draws."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from star_exp.sampling.base import OnStop, Policy, Request, Sample, Sampler
from star_exp.sampling.choice import Choice
from star_exp.sampling.ends import Ends
from star_exp.sampling.engine import Engine
from star_exp.sampling.ranges import check
from star_exp.sampling.reference import Reference
from star_exp.sampling.rows import Writer

ENGINES: dict[str, Callable[..., Engine | Reference]] = {"paged": Engine, "reference": Reference}


@dataclass(frozen=True)
class TextSampler(Sampler):
    """
    temperature, top_p, top_k, min_p, repetition_penalty: see Choice.
    max_new_tokens: of a completion, forced ones too.
    batch_size: most rows decoded together. cache_gib: memory for keys and values; null: half of
        what is free, or 80% on a GPU. The samples depend on neither.
    engine: paged shares beginnings and lets rows enter and leave; reference is transformers'
        generate, and samples any model.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    max_new_tokens: int = 64
    batch_size: int = 1000
    cache_gib: float | None = None
    engine: Literal["paged", "reference"] = "paged"

    def __post_init__(self) -> None:
        check(self)
        if self.engine not in ENGINES:
            raise ValueError(f"sampling.engine={self.engine}: expected one of {', '.join(ENGINES)}")

    @property
    def choice(self) -> Choice:
        return Choice(self.temperature, self.top_p, self.top_k, self.min_p, self.repetition_penalty)

    def stream(
        self,
        policy: Policy,
        requests: Sequence[Request],
        stop: Sequence[str],
        on_stop: OnStop | None = None,
    ) -> Iterator[tuple[int, Sample]]:
        training = policy.model.training
        policy.model.eval()
        try:
            ends = Ends(policy, stop)
            writer = Writer(policy, self.choice, ends, on_stop, self.max_new_tokens)
            yield from ENGINES[self.engine](writer, self.batch_size, self.cache_gib).run(requests)
        finally:
            policy.model.train(training)
