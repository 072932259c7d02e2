"""What a sampler is given and what it gives back."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from star_exp.records import Segment


@dataclass(frozen=True)
class Policy:
    """A causal language model with its tokenizer.

    weights: a name of the weights as they are now, adapters included (`fingerprint`). Between calls
    that give the same one, a sampler may keep what it computed; without one it keeps nothing.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    weights: str | None = None

    @property
    def end_tokens(self) -> frozenset[int]:
        """Tokens that end a text: what the generation config names, and the tokenizer's own."""
        configured = (
            self.model.generation_config.eos_token_id if self.model.generation_config else None
        )
        ends = configured if isinstance(configured, list) else [configured]
        return frozenset(
            int(end) for end in [*ends, self.tokenizer.eos_token_id] if end is not None
        )

    @property
    def pad_token(self) -> int:
        """A token to fill up with; it is masked wherever it stands, so any will do."""
        pad = self.tokenizer.pad_token_id
        return pad if isinstance(pad, int) else min(self.end_tokens, default=0)

    @property
    def begin(self) -> tuple[int, ...]:
        """What every text begins with for this model: the beginning-of-text token, or nothing."""
        token = self.tokenizer.bos_token_id
        if not isinstance(token, int) or self.tokenizer.encode("")[:1] != [token]:
            return ()
        return (token,)

    def encode(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer.encode(text, add_special_tokens=False))

    def encode_on(self, text: str) -> tuple[int, ...]:
        """The same of a text that goes on from another one: without the space that some tokenizers
        (Mistral, Llama 2) put in front of any text."""
        line, both = self.encode("\n"), self.encode("\n" + text)
        return both[len(line) :] if both[: len(line)] == line else self.encode(text)

    def decode(self, tokens: Sequence[int]) -> str:
        text = self.tokenizer.decode(
            list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        assert isinstance(text, str)  # a list only for a list of lists
        return text


@dataclass(frozen=True)
class Request:
    """One sample to draw. seed: of this sample alone, in [0, 2**63)."""

    prompt: tuple[int, ...]
    seed: int


@dataclass(frozen=True)
class Sample:
    """What was written after a prompt: sampled segments, and those that `on_stop` forced in.

    The tokens hold the end-of-text token or the stop string, where it ended by itself; the text
    ends with the stop string, even where its last token goes on after it.
    """

    segments: tuple[Segment, ...]
    truncated: bool

    @property
    def tokens(self) -> tuple[int, ...]:
        return tuple(token for segment in self.segments for token in segment.tokens)

    @property
    def logprobs(self) -> tuple[float, ...]:
        """Of the sampled tokens, under the untempered model, in nats."""
        return tuple(logprob for segment in self.segments for logprob in segment.logprobs)


OnStop = Callable[[int, str], str | None]
"""(index of the request, its text so far) -> the text to go on with, or None: it ends here.

The text so far ends with the token in which the stop string ends, and may go on behind it; what is
forced in stands behind that token, and is encoded as the tokenizer does, special tokens included.
"""


class Sampler(ABC):
    """From requests to samples. Sample i depends on request i and on the weights, on nothing else:
    not on the other requests, their order, or how often it was interrupted."""

    @abstractmethod
    def stream(
        self,
        policy: Policy,
        requests: Sequence[Request],
        stop: Sequence[str],
        on_stop: OnStop | None = None,
    ) -> Iterator[tuple[int, Sample]]:
        """(index of the request, its sample), each as soon as it has ended. The model is in eval
        mode until the last: one stream of a model at a time.

        stop: strings that end a sample, wherever tokens begin and end. on_stop is asked when one
        was met: its text is read in as it stands, and the sample goes on from there.
        """

    def sample(
        self,
        policy: Policy,
        requests: Sequence[Request],
        stop: Sequence[str],
        on_stop: OnStop | None = None,
    ) -> list[Sample]:
        """One sample for each request, in their order."""
        samples = dict(self.stream(policy, requests, stop, on_stop))
        return [samples[index] for index in range(len(requests))]


def segments(
    policy: Policy, tokens: Sequence[int], sampled: Sequence[bool], logprobs: Sequence[float]
) -> tuple[Segment, ...]:
    """Runs of sampled and of forced tokens. sampled: of each token; logprobs: of the sampled."""
    found, scores = [], iter(logprobs)
    for kind, run in groupby(zip(tokens, sampled, strict=True), key=itemgetter(1)):
        part = tuple(token for token, _ in run)
        known = tuple(next(scores) for _ in part) if kind else ()
        found.append(Segment(policy.decode(part), part, kind, known))
    return tuple(found)


def fingerprint(model: torch.nn.Module) -> str:
    """16 hex digits that name the weights, to the bit; computed where the weights lie."""
    import hashlib

    digest = hashlib.blake2b(digest_size=8)
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        for part in tensor.detach().contiguous().view(-1).view(torch.uint8).split(1 << 24):
            bits = part.to(torch.int64)  # in parts, since this is eight times the size
            places = torch.arange(1, len(bits) + 1, device=bits.device)
            digest.update(f" {int(bits.sum())} {int((bits * places).sum())}".encode())
    return digest.hexdigest()
