"""A language model as a Lightning module: its weights, where they came from, and its optimizer."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from star_exp.models.lora import num_adapter_weights
from star_exp.sampling.base import Policy

Load = Callable[[], Policy]  # M_0, read anew: models/base.py
Rate = Callable[[int, int], float]  # (step since the reset, steps of the iteration) -> factor


class LanguageModel(pl.LightningModule):
    """
    base: loads M_0, the same each time; what requires gradients in it is trained.
    rate: factor on the learning rate; its steps are counted from the last reset of the optimizer.
    """

    def __init__(
        self,
        base: Load,
        learning_rate: float,
        rate: Rate,
        betas: Sequence[float] = (0.9, 0.999),
        weight_decay: float = 0.0,
    ):
        super().__init__()
        self.base = base
        policy = base()
        self.model, self.tokenizer = policy.model, policy.tokenizer
        self.learning_rate, self.rate = learning_rate, rate
        self.betas, self.weight_decay = (betas[0], betas[1]), weight_decay

    @property
    def policy(self) -> Policy:
        return Policy(self.model, self.tokenizer)

    def base_weights(self) -> dict[str, Tensor]:
        """The state of M_0, read anew from where it came: no copy is held in memory."""
        return self.base().model.state_dict()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """What is not trained stands in M_0, and not in each checkpoint."""
        state, frozen = checkpoint["state_dict"], self._frozen()
        checkpoint["state_dict"] = {name: state[name] for name in state if name not in frozen}

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ):
        """What is trained must all be there; what is not may be absent, and stays as it is."""
        return super().load_state_dict({**self._frozen(), **state_dict}, strict, assign)

    def _frozen(self) -> dict[str, Tensor]:
        named = self.named_parameters(remove_duplicate=False)  # tied ones under each of their names
        return {name: weights for name, weights in named if not weights.requires_grad}

    def configure_optimizers(self):
        """AdamW; weight decay on matrices only. Called again by each reset (callbacks/reset.py)."""
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in parameters if p.dim() > 1], "weight_decay": self.weight_decay},
            {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=self.learning_rate, betas=self.betas, fused=True)
        factor = torch.optim.lr_scheduler.LambdaLR(optimizer, self._factor)
        return [optimizer], [{"scheduler": factor, "interval": "step"}]

    def _factor(self, step: int) -> float:
        """`num_training_batches` is that of this iteration, known before its first step."""
        steps = self.trainer.num_training_batches
        # at the first set-up, before a loader is read, there is no iteration: any factor will do
        return self.rate(step, int(steps)) if steps not in (0, float("inf")) else 1.0

    def final_loss(self) -> float:
        """The loss that an iteration ended with; for the report."""
        raise NotImplementedError

    @property
    def passes_a_trained_token(self) -> int:
        """In products with all weights: forward, for the gradients of activations, and for those of
        the weights, which adapters are a hundredth of (Kaplan et al. 2020, section 2.1)."""
        return 2 if num_adapter_weights(self.model) else 3

    @property
    def num_weights(self) -> int:
        """Parameters that a token is multiplied with: all but the input embeddings, unless tied.

        Without adapters, which are merged in sampling, and a hundredth beside them in training.
        """
        model = self.policy.model
        tied = model.config.get_text_config().tie_word_embeddings
        unused = [] if tied else model.get_input_embeddings().parameters()
        untouched = sum(weights.numel() for weights in unused)
        return model.num_parameters() - untouched - num_adapter_weights(model)
