"""Verifiers: language models that learn from right and wrong solutions to tell which are right.

`Preference` is V-STaR's (Hosseini et al. 2024, arXiv:2402.06457), `OutcomeReward` that of Cobbe et
al. 2021 (arXiv:2110.14168). Both read a problem with a solution as an `Example`, in batches of
`loss.owned`, and never write one: a verifier gets worse at that as it is trained.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from star_exp.data.encode import IGNORED, Example, example, pack
from star_exp.errors import UserError, did_you_mean
from star_exp.modules.base import LanguageModel, Load, Rate
from star_exp.modules.loss import (
    Batch,
    logprob_of_each,
    num_examples,
    owned,
    states_and_logprobs,
)
from star_exp.records import Rollout
from star_exp.tasks.base import Task


class Verifier(LanguageModel, ABC):
    """A model whose `scores` rank solutions of one problem; `base` loads what it starts from."""

    def scores(self, batch: Batch) -> Tensor:
        """(examples,): the higher, the likelier right. In eval mode, without gradients."""
        with _reading(self.model):
            return self._scores(batch, num_examples(batch))

    @abstractmethod
    def _scores(self, batch: Batch, examples: int) -> Tensor: ...

    def example(self, task: Task, prompt: Sequence[int], rollout: Rollout) -> Example:
        """A solution behind its prompt, as its scores are read off."""
        return example(self.policy, prompt, rollout)

    probable = False  # whether its scores are chances of being right, in [0, 1]

    @property
    def needs_reference(self) -> bool:
        """Whether it scores by what G_SFT gives, too: batch["reference"]."""
        return False

    def save(self, root: Path) -> None:
        """verifier.safetensors: what is trained. Not as a language model: that is no use of it."""
        self.save_trained(root / "verifier.safetensors")


class Preference(Verifier):
    """Direct preference optimization (Rafailov et al. 2023, arXiv:2305.18290; V-STaR, eq. 2).

    The loss of a pair of solutions of one problem is -log sigmoid(r(right) - r(wrong)), where r,
    the implicit reward, is beta * log(V(y|x) / G_SFT(y|x)). `base` loads G_SFT, where V starts.

    A batch: 2P examples, the P right ones, and in the same order the wrong ones; "reference" (2P,),
    log G_SFT(y|x) of each in float32, which `logprobs` gives once beforehand, so that no second
    model is in memory; "share", the pairs of the whole step over the number of ranks.

    score: "likelihood", log V(y|x), which V-STaR ranks by (section 3.1); "implicit_reward", for
        which batches to be scored need their "reference" too; "mean_logprob", log V a token.
    """

    def __init__(
        self,
        base: Load,
        learning_rate: float,
        rate: Rate,
        betas: Sequence[float] = (0.9, 0.999),
        weight_decay: float = 0.0,
        beta: float = 0.1,
        score: Literal["likelihood", "implicit_reward", "mean_logprob"] = "likelihood",
    ):
        if beta <= 0:
            raise UserError(
                f"verifier.module.beta={beta}: expected more than 0; V-STaR prints none"
            )
        if score not in SCORES:
            raise UserError(f"verifier.module.score={score}: {did_you_mean(score, SCORES)}")
        super().__init__(base, learning_rate, rate, betas, weight_decay)
        self.beta, self.score = beta, score

    @property
    def needs_reference(self) -> bool:
        return self.score == "implicit_reward"

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        logprobs = logprob_of_each(self.model, batch, len(batch["reference"]))
        right, wrong = (self.beta * (logprobs - batch["reference"])).chunk(2)
        margins, share = right - wrong, batch["share"]
        loss = -nn.functional.logsigmoid(margins).sum() / share
        self.log_step(loss, pair_accuracy=(margins > 0).sum() / share, margin=margins.sum() / share)
        return loss

    def _scores(self, batch: Batch, examples: int) -> Tensor:
        logprobs = logprob_of_each(self.model, batch, examples)
        return SCORES[self.score](logprobs, batch, self.beta)


def _likelihood(logprobs: Tensor, batch: Batch, beta: float) -> Tensor:
    return logprobs


def _implicit_reward(logprobs: Tensor, batch: Batch, beta: float) -> Tensor:
    if "reference" not in batch:
        raise ValueError('score=implicit_reward: the batch has no "reference"; give log G_SFT(y|x)')
    return beta * (logprobs - batch["reference"])


def _mean_logprob(logprobs: Tensor, batch: Batch, beta: float) -> Tensor:
    return logprobs / batch["owner"][batch["labels"] != IGNORED].bincount(minlength=len(logprobs))


SCORES: dict[str, Callable[[Tensor, Batch, float], Tensor]] = {
    "likelihood": _likelihood,
    "implicit_reward": _implicit_reward,
    "mean_logprob": _mean_logprob,
}


class OutcomeReward(Verifier):
    """Cobbe et al. 2021: whether the whole solution is right, judged at each of its tokens; and the
    loss of a language model besides, so that it goes on knowing what solutions look like.

    A batch: examples, right and wrong; "right" (examples,), 1.0 or 0.0; "tokens", the trained ones
    of the whole step over the number of ranks. Both losses are sums over tokens, divided by that:
    each token counts as much, so that the judgement at the last one, which is the score, counts as
    much for a long solution as for a short one.

    Ours: the judgement is a linear map of the last layer's state, in float32 and 0 at the start, so
    a half everywhere; the paper's is a gain and a bias on the logit of a reserved token. The loss
    is binary cross-entropy, after V-STaR's outcome verifier (section 4.4). The language model is
    trained on right solutions alone. Judged are the states that tokens are said from: the first has
    read the problem, the last all but the end of text.

    lm_weight: of the language model's loss; 0: none.
    """

    probable = True

    def __init__(
        self,
        base: Load,
        learning_rate: float,
        rate: Rate,
        betas: Sequence[float] = (0.9, 0.999),
        weight_decay: float = 0.0,
        lm_weight: float = 1.0,
    ):
        if lm_weight < 0:
            raise UserError(f"verifier.module.lm_weight={lm_weight}: expected at least 0; 0 is off")
        super().__init__(base, learning_rate, rate, betas, weight_decay)
        self.lm_weight = lm_weight
        self.head = nn.Linear(self.model.config.get_text_config().hidden_size, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        sums = []
        for states, logprobs, owner in states_and_logprobs(self.model, batch):
            right, judged = batch["right"][owner], self._judged(states)
            loss = nn.functional.binary_cross_entropy_with_logits(judged, right, reduction="sum")
            hits = ((judged > 0) == (right > 0.5)).sum()
            sums.append(torch.stack([loss, -(right * logprobs).sum(), hits]))
        judgement, language, hits = torch.stack(sums).sum(0) / batch["tokens"]
        loss = judgement + self.lm_weight * language
        self.log_step(loss, lm_loss=language, judgement_accuracy=hits)
        return loss

    def _scores(self, batch: Batch, examples: int) -> Tensor:
        """The judgement at the last trained token, in [0, 1]; in float64 and on the CPU, since in
        float32 all that is surely right would be 1."""
        found = torch.zeros(examples, dtype=torch.float64)
        ends = {**batch, "labels": _last_labels(batch)}  # others need no logits
        for states, _, owner in states_and_logprobs(self.model, ends):
            found[owner.cpu()] = self._judged(states).cpu().double().sigmoid()
        return found

    def _judged(self, states: Tensor) -> Tensor:
        """states (N, H) -> logits (N,) of the solution being right."""
        return self.head(states.to(self.head.weight.dtype)).squeeze(1)


def score(
    verifier: Verifier,
    examples: Sequence[Example],
    tokens_a_batch: int,
    reference: Sequence[float] | None = None,
) -> list[float]:
    """The verifier's score of each example, in their order; the same whatever is scored with it.

    tokens_a_batch: read at once, at most, if no example is longer; memory is needed for as many
        times the vocabulary, in float32. reference: log G_SFT(y|x) of each, for implicit rewards.
    """
    return _in_batches(verifier.scores, verifier.model, examples, tokens_a_batch, reference)


def fitting(model: PreTrainedModel) -> int:
    """How many tokens to read at once: so many that their logits take a GiB, at most 16,384."""
    return min(16_384, max(256, 2**28 // model.config.get_text_config().vocab_size))


def logprobs(
    model: PreTrainedModel, examples: Sequence[Example], tokens_a_batch: int
) -> list[float]:
    """log p of each example's trained tokens, in eval mode: the reference of `Preference`, and what
    a generator thinks of its own solutions. tokens_a_batch: as for `score`."""

    def scores(batch: Batch) -> Tensor:
        with _reading(model):
            return logprob_of_each(model, batch, num_examples(batch))

    return _in_batches(scores, model, examples, tokens_a_batch)


def _in_batches(
    scores: Callable[[Batch], Tensor],
    model: PreTrainedModel,
    examples: Sequence[Example],
    tokens_a_batch: int,
    reference: Sequence[float] | None = None,
) -> list[float]:
    found = [0.0] * len(examples)
    for indices in _like_lengths([len(each.tokens) for each in examples], tokens_a_batch):
        batch = owned(pack, [examples[index] for index in indices])
        if reference is not None:
            batch["reference"] = torch.tensor([reference[index] for index in indices])
        values = scores({name: part.to(model.device) for name, part in batch.items()})
        for index, value in zip(indices, values.tolist(), strict=True):
            found[index] = value
    return found


def _like_lengths(lengths: Sequence[int], at_most: int) -> Iterator[list[int]]:
    """Indices from the shortest to the longest, in batches of `at_most` in sum, or of one."""
    batch: list[int] = []
    total = 0
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and total + lengths[index] > at_most:
            yield batch
            batch, total = [], 0
        batch.append(index)
        total += lengths[index]
    if batch:
        yield batch


def _last_labels(batch: Batch) -> Tensor:
    """The labels, of which the last trained one of each example is left."""
    labels = batch["labels"]
    trained = labels != IGNORED
    owner = batch["owner"][trained]  # the examples' tokens stand together, packed or padded
    last = torch.ones_like(owner, dtype=torch.bool)
    last[:-1] = owner[1:] != owner[:-1]
    kept = trained.masked_scatter(trained, last)
    return labels.masked_fill(~kept, IGNORED)


@contextmanager
def _reading(model: nn.Module) -> Iterator[None]:
    """Eval mode without gradients; the mode is put back."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)
