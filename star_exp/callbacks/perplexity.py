"""How much of general language a model forgets: its perplexity on held-out text."""

import json
import math
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytorch_lightning as pl
import torch

from star_exp.callbacks.phase import Phase, announce, data_of, trained_iterations
from star_exp.data.encode import Example, pad, trained_tokens
from star_exp.errors import UserError
from star_exp.files import write_json
from star_exp.modules.base import LanguageModel
from star_exp.modules.loss import summed_loss
from star_exp.sampling.base import Policy, fingerprint
from star_exp.tasks.sources import Source, texts


class Perplexity(Phase):
    """Measures the base model and that of every iteration; kept in perplexity.json of the run.

    path: a file or folder (tasks/sources.py) of rows with a "text", or a .txt file, in place of
        the hub.
    hub, config, split: the dataset on the Hugging Face hub.
    tokens: at most so many are read, in windows of `context` that don't overlap, so that the first
        of a window have little before them: of use for comparing models, and no record.
    """

    def __init__(
        self,
        hub: str | None = None,
        config: str | None = None,
        split: str = "test",
        path: str | None = None,
        tokens: int = 50_000,
        context: int = 512,
    ):
        for name, value in (("tokens", tokens), ("context", context)):
            if value < 2:
                raise UserError(f"callbacks.perplexity.{name}={value}: expected at least 2")
        self.source = Source(
            hub=hub,
            config=config,
            splits={split: split},
            path=path,
            setting="callbacks.perplexity.path",
        )
        self.split, self.tokens, self.context = split, tokens, context
        self._windows: list[Example] = []

    def on_fit_start(self, trainer: pl.Trainer, module: LanguageModel) -> None:
        """Reads the text: what is wrong with it is told before anything is sampled."""
        self.windows(module.policy)

    def on_base_model(self, trainer: pl.Trainer, module: LanguageModel) -> None:
        self.measure(trainer, module, 0)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: LanguageModel) -> None:
        self.measure(trainer, module, trained_iterations(trainer))

    def measure(self, trainer: pl.Trainer, module: LanguageModel, iteration: int) -> None:
        """Writes the perplexity, unless it is known for these weights; all ranks take part."""
        weights, kept = fingerprint(module.model), _read(trainer)
        known = kept.get(str(iteration), {}).get("weights") == weights
        if trainer.strategy.broadcast(known):
            return
        begun = time.perf_counter()
        windows = self.windows(module.policy)
        sums = torch.zeros(len(windows), dtype=torch.float64, device=module.device)
        for index in range(trainer.global_rank, len(windows), trainer.world_size):
            sums[index] = nats(module.policy, windows[index])
            announce(trainer, "perplexity", iteration, index + 1, len(windows))
        sums = trainer.strategy.reduce(sums, reduce_op="sum")  # zeros but for one: exact
        data_of(trainer).clock.add(
            iteration, "perplexity", time.perf_counter() - begun, trainer.global_rank
        )
        if trainer.is_global_zero:
            value = perplexity(sums.tolist(), windows)  # type: ignore[union-attr]
            kept[str(iteration)] = {"weights": weights, "perplexity": value}
            write_json(_path(trainer), kept)

    def noted(self, trainer: pl.Trainer, iteration: int) -> dict[str, float]:
        """The metrics of an iteration, for the report; {} before it was measured."""
        kept = _read(trainer)
        if str(iteration) not in kept:
            return {}
        value, base = (kept[str(number)]["perplexity"] for number in (iteration, 0))
        return {"general/perplexity": value, "general/perplexity_change": value / base - 1}

    def windows(self, policy: Policy) -> list[Example]:
        """What is read, the same for all models of a run, even if the hub goes away meanwhile.

        UserError where the text or the model has too little for it.
        """
        if self._windows:
            return self._windows
        positions = getattr(policy.model.config.get_text_config(), "max_position_embeddings", None)
        if positions is not None and self.context > positions:
            raise UserError(
                f"callbacks.perplexity.context={self.context}: the model has {positions} "
                "positions; set it to no more"
            )
        read = (text for _, text in texts(self.source, self.split))
        self._windows = cut(policy, read, self.tokens, self.context)
        if not self._windows:
            where = self.source.path or self.source.hub
            raise UserError(f"callbacks.perplexity: {where} has nothing to predict; name a text")
        return self._windows


def cut(policy: Policy, texts: Iterable[str], tokens: int, context: int) -> list[Example]:
    """The first `tokens` tokens of the texts, a line break behind each, in windows of `context`.

    Every window begins as texts do for this model, within `context` and not counted in `tokens`;
    its first token is read, and not predicted.
    """
    read: list[int] = []
    for text in texts:
        read += _encoded(policy, text.rstrip("\n") + "\n")
        if len(read) >= tokens:
            break
    size, read = context - len(policy.begin), read[:tokens]
    windows = [(*policy.begin, *read[start : start + size]) for start in range(0, len(read), size)]
    return [
        Example(window, (False, *[True] * (len(window) - 1)))
        for window in windows
        if len(window) > 1
    ]


@torch.no_grad()  # not inference_mode: its tensors, kept in buffers, could not be trained with
def nats(policy: Policy, window: Example) -> float:
    """-log p of the window's tokens but the first, in eval mode; the mode is put back."""
    model, training = policy.model, policy.model.training
    model.eval()
    try:
        batch = pad([window], policy.pad_token)
        return summed_loss(model, {name: x.to(model.device) for name, x in batch.items()}).item()
    finally:
        model.train(training)


def perplexity(sums: Sequence[float], windows: Sequence[Example]) -> float:
    """exp of the mean of -log p over all predicted tokens; sums: that of each window, in nats."""
    return math.exp(math.fsum(sums) / trained_tokens(windows))


def _encoded(policy: Policy, text: str) -> tuple[int, ...]:
    try:
        return policy.encode(text)
    except Exception as error:  # tokenizers has no class of its own for it
        raise UserError(
            f"callbacks.perplexity: the model's tokenizer has no tokens for {text[:60]!r} "
            f"({error}); choose a text in its alphabet, callbacks.perplexity.path=FILE"
        ) from error


def _path(trainer: pl.Trainer) -> Path:
    return Path(trainer.default_root_dir) / "perplexity.json"


def _read(trainer: pl.Trainer) -> dict[str, dict]:
    """{"0": {"weights": their fingerprint, "perplexity": 31.4}, ...}, by iteration."""
    path = _path(trainer)
    return json.loads(path.read_text()) if path.exists() else {}
