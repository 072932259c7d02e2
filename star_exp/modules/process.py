"""Process reward models: a judgement of each step of a solution (Lightman et al. 2023), from labels
that samples give (Math-Shepherd, Wang et al. 2024, arXiv:2312.08935)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from star_exp.data.encode import Example
from star_exp.data.steps import judged
from star_exp.modules.loss import Batch, states_and_logprobs
from star_exp.modules.verifier import OutcomeReward
from star_exp.records import Rollout
from star_exp.tasks.base import Task


class ProcessReward(OutcomeReward):
    """Whether what was written up to the end of a step can still become right. The score of a
    solution is the lowest of its steps' (B-STaR, section 2.3; Math-Shepherd, section 3.3).

    The head is that of an outcome reward model; a step is judged by the state that has read its
    last token, and says the next one. The loss is binary cross-entropy, the mean over the judged
    steps (B-STaR, train_rm_pointwise.py); Math-Shepherd has the logits of two reserved tokens.

    A batch, beside an outcome reward model's: "steps" (examples, trained tokens of the longest), at
    each trained token the label of the step that it stands behind, in [0, 1], and -1 where it
    stands behind none; "judged", the labels of the whole step over the number of ranks. Batches to
    be scored hold examples of which the tokens behind steps alone are trained: see `example`.

    lm_weight: of a language model's loss on right solutions; 0, as in the paper: none, and then
        only the tokens behind steps have to be trained.
    """

    def example(self, task: Task, prompt: Sequence[int], rollout: Rollout) -> Example:
        return judged(self.policy, task, prompt, rollout)

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        sums = []
        for states, logprobs, owner in states_and_logprobs(self.model, batch):
            labels = batch["steps"][owner, _places(owner)]
            known = labels >= 0
            given, wanted = self._judged(states[known]), labels[known]
            loss = nn.functional.binary_cross_entropy_with_logits(given, wanted, reduction="sum")
            hits = ((given > 0) == (wanted > 0.5)).sum()
            sums.append(torch.stack([loss, hits, -(batch["right"][owner] * logprobs).sum()]))
        loss, hits, language = torch.stack(sums).sum(0)
        loss, others = loss / batch["judged"], {"judgement_accuracy": hits / batch["judged"]}
        if self.lm_weight:
            others["lm_loss"] = language / batch["tokens"]
            loss = loss + self.lm_weight * others["lm_loss"]
        self.log_step(loss, **others)
        return loss

    def _scores(self, batch: Batch, examples: int) -> Tensor:
        """The lowest judgement of each, in [0, 1], in float64 and on the CPU."""
        found = torch.ones(examples, dtype=torch.float64)
        for states, _, owner in states_and_logprobs(self.model, batch):
            chances = self._judged(states).cpu().double().sigmoid()
            found.scatter_reduce_(0, owner.cpu(), chances, "amin")
        return found


def _places(owner: Tensor) -> Tensor:
    """owner (N,), equal ones beside each other -> (N,): how many of the same stand before each."""
    _, sizes = owner.unique_consecutive(return_counts=True)
    firsts = (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
    return torch.arange(len(owner), device=owner.device) - firsts
