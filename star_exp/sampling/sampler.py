"""The sampler that configs name: rules of decoding, limits, and which engine draws."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from star_exp.sampling.base import OnStop, Policy, Request, Sample, Sampler
from star_exp.sampling.choice import Choice
from star_exp.sampling.ends import Ends
from star_exp.sampling.engine import Engine
from star_exp.sampling.reference import Reference

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
        self.choice  # noqa: B018 - refuses what is out of range
        if self.max_new_tokens < 1 or self.batch_size < 1:
            raise ValueError("sampling.max_new_tokens and sampling.batch_size must be at least 1")
        if self.cache_gib is not None and not self.cache_gib > 0:
            raise ValueError(
                f"sampling.cache_gib={self.cache_gib}: expected more than 0, or null for a share "
                "of the free memory"
            )
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
            engine = ENGINES[self.engine](
                policy,
                self.choice,
                Ends(policy, stop),
                on_stop,
                max_new_tokens=self.max_new_tokens,
                batch_size=self.batch_size,
                cache_gib=self.cache_gib,
            )
            yield from engine.run(requests)
        finally:
            policy.model.train(training)
