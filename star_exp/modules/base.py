"""A language model as a Lightning module: its weights, where they came from, and its optimizer."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from safetensors.torch import load_file
from safetensors.torch import save as serialize
from torch import Tensor, nn

from star_exp.errors import UserError
from star_exp.files import replace_file, replace_folder
from star_exp.models.base import save
from star_exp.models.lora import num_adapter_weights
from star_exp.sampling.base import Policy

Load = Callable[[], Policy]  # M_0, read anew: models/base.py
Rate = Callable[[int, int], float]  # (step since the reset, steps of the iteration) -> factor


def started_from(base: Load, path: Path) -> Policy:
    """M_0 with the weights that `save_trained` wrote. UserError if they are of another model."""
    policy = base()
    put_trained(policy.model, path, "model.")
    return policy


def put_trained(module: nn.Module, path: Path, prefix: str = "") -> None:
    """Puts what `save_trained` wrote into a module, where names go without the prefix."""
    saved = {name.removeprefix(prefix): part for name, part in load_file(path).items()}
    trained = [name for name, part in module.named_parameters() if part.requires_grad]
    if set(trained) != set(saved):
        raise UserError(
            f"{path} holds the weights of another model ({len(saved)} tensors, and {len(trained)} "
            "are trained here); give the model that it was made with, its adapters included"
        )
    nn.Module.load_state_dict(module, saved, strict=False)


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

    def save_trained(self, path: Path) -> None:
        """A file of all that is trained: what `started_from` puts into M_0 again."""
        named = self.named_parameters()
        trained = {name: part.detach().cpu() for name, part in named if part.requires_grad}
        with replace_file(path) as file:
            file.write(serialize({name: part.contiguous() for name, part in trained.items()}))

    def save(self, root: Path) -> None:
        """model/: the weights in Hugging Face format; adapter/: adapters alone, in PEFT's."""
        with replace_folder(root / "model") as temporary:
            save(self.policy, temporary)
        if num_adapter_weights(self.model):
            with replace_folder(root / "adapter") as temporary:
                self.model.save_pretrained(temporary)

    def configure_optimizers(self):
        """AdamW; weight decay on matrices only. Called again by each reset (callbacks/reset.py)."""
        parameters = [p for p in self.parameters() if p.requires_grad]  # a head's too
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
        # at the first set-up no loader was read; its factor is that of the first step if no reset
        # sets the optimizer up again
        return self.rate(step, int(steps) if steps not in (0, float("inf")) else 1)

    def on_train_epoch_start(self) -> None:
        self.losses: list[Tensor] = []

    def final_loss(self) -> float:
        """Mean of train/loss over the last tenth of the iteration's steps, over all ranks."""
        tail = torch.stack(self.losses[-max(1, len(self.losses) // 10) :]).mean()
        return float(self.trainer.strategy.reduce(tail, reduce_op="mean"))

    def log_step(self, loss: Tensor, **others: Tensor) -> None:
        """train/loss and others of a step, each such that the ranks' mean is the step's value."""
        self.losses.append(loss.detach())
        for name, value in {"loss": loss, **others}.items():
            self.log(f"train/{name}", value.detach(), on_step=True, on_epoch=False, sync_dist=True)
        self.log("train/lr", self._learning_rate(), on_step=True, on_epoch=False)

    def _learning_rate(self) -> float:
        return self.trainer.optimizers[0].param_groups[0]["lr"]

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
