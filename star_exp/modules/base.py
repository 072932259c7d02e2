"""A language model as a Lightning module: its weights, where they came from, and its optimizer."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import pytorch_lightning as pl
import torch
from torch import Tensor

from star_exp.models.base import load
from star_exp.sampling.base import Policy

Rate = Callable[[int, int], float]  # (step since the reset, steps of the iteration) -> factor


class LanguageModel(pl.LightningModule):
    """
    base: folder of M_0 in Hugging Face format.
    dtype: of weights and computation: float32, bfloat16, float64.
    rate: factor on the learning rate; its steps are counted from the last reset of the optimizer.
    """

    def __init__(
        self,
        base: Path,
        learning_rate: float,
        rate: Rate,
        betas: Sequence[float] = (0.9, 0.999),
        weight_decay: float = 0.0,
        dtype: Literal["float32", "bfloat16", "float64"] = "float32",
    ):
        super().__init__()
        self.base, self.precision = base, dtype
        policy = load(base, dtype)
        self.model, self.tokenizer = policy.model, policy.tokenizer
        self.learning_rate, self.rate = learning_rate, rate
        self.betas, self.weight_decay = (betas[0], betas[1]), weight_decay

    @property
    def policy(self) -> Policy:
        return Policy(self.model, self.tokenizer)

    def base_weights(self) -> dict[str, Tensor]:
        """The state of M_0, read anew from where it came: no copy is held in memory."""
        return load(self.base, self.precision).model.state_dict()

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
    def num_weights(self) -> int:
        """Parameters that a token is multiplied with: all but the input embeddings, unless tied."""
        model = self.policy.model
        tied = model.config.get_text_config().tie_word_embeddings
        unused = [] if tied else model.get_input_embeddings().parameters()
        return model.num_parameters() - sum(weights.numel() for weights in unused)
