"""Supervised fine-tuning on rollouts: the inner loop of STaR (Algorithm 1, line 7)."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property

from torch import Tensor
from transformers import PreTrainedModel

from star_exp.errors import UserError
from star_exp.models.lora import num_adapter_weights
from star_exp.modules import packing
from star_exp.modules.base import LanguageModel, Load, Rate
from star_exp.modules.loss import summed_loss, summed_loss_and_kl


class FineTune(LanguageModel):
    """Mean cross-entropy over the trained tokens of a step, wherever its examples lie.

    The sum is divided by the trained tokens of the whole step over all ranks (batch["share"]), so
    that DDP's mean of gradients is the gradient of one process with the whole batch.

    kl_to_base: weight of the mean of KL(M_0 || model) over the same tokens, against forgetting; 0:
        none. In this direction a model pays for what M_0 would say and it no longer does: the loss
        of Learning without Forgetting (Li and Hoiem 2016, arXiv:1606.09282), and the divergence
        that tells how much is forgotten (Shenfeld et al. 2025, arXiv:2509.04259). `train/loss` is
        the cross-entropy alone, with or without.
    """

    def __init__(
        self,
        base: Load,
        learning_rate: float,
        rate: Rate,
        betas: Sequence[float] = (0.9, 0.999),
        weight_decay: float = 0.0,
        kl_to_base: float = 0.0,
    ):
        if kl_to_base < 0:
            raise UserError(f"module.kl_to_base={kl_to_base}: expected at least 0; 0 is off")
        super().__init__(base, learning_rate, rate, betas, weight_decay)
        self.kl_to_base = kl_to_base

    def training_step(self, batch: dict[str, Tensor], batch_index: int) -> Tensor:
        if self.kl_to_base:
            sums = summed_loss_and_kl(self.model, self._frozen_base, batch)
            loss, kl = sums / batch["share"]
            self.log_step(loss, kl=kl)
            return loss + self.kl_to_base * kl
        loss = summed_loss(self.model, batch) / batch["share"]
        self.log_step(loss)
        return loss

    @property
    def passes_a_trained_token(self) -> int:
        """One more where the base model reads the token too."""
        return super().passes_a_trained_token + (self.kl_to_base > 0)

    def _frozen_base(self) -> AbstractContextManager[PreTrainedModel]:
        """M_0 in eval mode: the model without its adapters; if it has none, a copy beside it."""
        if num_adapter_weights(self.model):
            return _without_adapters(self.model)
        if packing.enabled(self.model):
            packing.enable(self._copy)
        return nullcontext(self._copy.to(self.device))  # type: ignore[arg-type]

    @cached_property
    def _copy(self) -> PreTrainedModel:
        """M_0, loaded once. nn.Module does not see it: it is in no checkpoint, nor trained."""
        return self.base().model.requires_grad_(False).eval()


@contextmanager
def _without_adapters(model: PreTrainedModel) -> Iterator[PreTrainedModel]:
    """The model as it was before it got adapters, in eval mode; afterwards as it is now."""
    training = model.training
    model.eval().disable_adapters()
    try:
        yield model
    finally:
        model.enable_adapters()
        model.train(training)
