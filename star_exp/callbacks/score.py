"""The phases of a verifier's fit: its scores of candidates, and those of what it started from."""

from collections.abc import Callable, Sequence

import pytorch_lightning as pl

from star_exp import metrics
from star_exp.callbacks.candidates import phase_of
from star_exp.callbacks.phase import Phase, announce, trained_iterations
from star_exp.data.encode import Example
from star_exp.data.verification import REFERENCE, verifier_data_of
from star_exp.errors import UserError
from star_exp.modules import packing
from star_exp.modules.base import LanguageModel
from star_exp.modules.verifier import Verifier, fitting, logprobs, score
from star_exp.records import Rollout
from star_exp.sampling.base import fingerprint
from star_exp.scores import key

A_SHARD = 4096  # rollouts of a file of scores; a crash costs those that aren't complete


class Score(Phase):
    """A verifier's scores of the generator's candidates, before its training and as that goes on.

    name: of the verifier in metrics: dev/best_of_16/dpo.
    splits: scored by the model it starts from and after every iteration; final_splits: by the last.
    tokens_a_batch: read at once; None: so many that their logits take a GiB, at most 16,384.
    """

    def __init__(
        self,
        name: str,
        splits: Sequence[str] = ("dev",),
        final_splits: Sequence[str] = ("test",),
        tokens_a_batch: int | None = None,
    ):
        self.name, self.tokens_a_batch = name, tokens_a_batch
        self.splits, self.final_splits = tuple(splits), tuple(final_splits)

    def on_base_model(self, trainer: pl.Trainer, module: LanguageModel) -> None:
        assert isinstance(module, Verifier)
        for split in (*self.splits, *self.final_splits) if module.needs_reference else ():
            write_logprobs(
                *(trainer, module, f"{phase_of(split)}-{REFERENCE}"),
                *(self._candidates(trainer, split), self.tokens_a_batch),
            )
        self._score(trainer, module, 0, self.splits)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: LanguageModel) -> None:
        self._score(trainer, module, trained_iterations(trainer), self.splits)

    def on_run_end(self, trainer: pl.Trainer, module: LanguageModel, iteration: int) -> None:
        self._score(trainer, module, iteration, self.final_splits)

    def _score(
        self, trainer: pl.Trainer, module: LanguageModel, iteration: int, splits: Sequence[str]
    ) -> None:
        assert isinstance(module, Verifier)
        for split in splits:
            name, given = phase_of(split), verifier_data_of(trainer).scores
            before = given.read(0, f"{name}-{REFERENCE}") if module.needs_reference else None

            def judge(
                rollouts: Sequence[Rollout], examples: Sequence[Example], before=before
            ) -> list[float]:
                reference = [before[key(rollout)] for rollout in rollouts] if before else None
                return score(
                    module, examples, self.tokens_a_batch or fitting(module.model), reference
                )

            candidates = self._candidates(trainer, split)
            write_scores(trainer, module, iteration, name, candidates, judge)

    def _candidates(self, trainer: pl.Trainer, split: str) -> list[Rollout]:
        data = verifier_data_of(trainer)
        found = data.candidates(split)
        if not found:
            raise UserError(
                f"{data.generator} holds no candidates of {split} to pick from; give it some "
                "(callbacks.candidates), or leave the split out of verifier.callbacks.score"
            )
        return found

    def measured(self, trainer: pl.Trainer, iteration: int) -> dict[str, float]:
        """What the scores of an iteration are good for; for the report."""
        data, values = verifier_data_of(trainer), {}
        for split in (*self.splits, *self.final_splits):
            scores = data.scores.read(iteration, phase_of(split))
            if scores:
                candidates = data.candidates(split)
                mine = [scores[key(rollout)] for rollout in candidates]
                verifier = trainer.lightning_module
                assert isinstance(verifier, Verifier)
                values |= metrics.selected(split, candidates, self.name, mine, verifier.probable)
        return values


class Reference(Phase):
    """log G_SFT(y|x) of all that is trained on, by the model before its training: for DPO."""

    def __init__(self, tokens_a_batch: int | None = None):
        self.tokens_a_batch = tokens_a_batch

    def on_base_model(self, trainer: pl.Trainer, module: LanguageModel) -> None:
        compared = verifier_data_of(trainer).compared
        write_logprobs(trainer, module, REFERENCE, compared, self.tokens_a_batch)


def write_logprobs(
    trainer: pl.Trainer,
    module: LanguageModel,
    name: str,
    rollouts: Sequence[Rollout],
    tokens_a_batch: int | None,
) -> None:
    """What the model that training starts from, the reference, gives these rollouts."""

    def given(_: Sequence[Rollout], examples: Sequence[Example]) -> list[float]:
        return logprobs(module.model, examples, tokens_a_batch or fitting(module.model))

    write_scores(trainer, module, 0, name, rollouts, given)


def write_scores(
    trainer: pl.Trainer,
    module: LanguageModel,
    iteration: int,
    name: str,
    rollouts: Sequence[Rollout],
    judge: Callable[[Sequence[Rollout], Sequence[Example]], list[float]],
) -> None:
    """Scores what these weights have not scored yet; each rank its share, and waits for all."""
    data, weights = verifier_data_of(trainer), fingerprint(module)
    packing.enable(module.model)  # as in training: a resumed run must give the same bits
    shards = [rollouts[start : start + A_SHARD] for start in range(0, len(rollouts), A_SHARD)]
    pending = (
        data.scores.missing(iteration, name, len(shards), weights) if trainer.is_global_zero else []
    )
    pending = trainer.strategy.broadcast(pending)
    done = len(shards) - len(pending)
    for shard in pending[trainer.global_rank :: trainer.world_size]:
        announce(trainer, f"score {name}", iteration, done, len(shards))
        examples = [data.example(module.policy, rollout) for rollout in shards[shard]]
        with data.clock.timed(iteration, "score", trainer.global_rank):
            scores = judge(shards[shard], examples)
        data.scores.write(iteration, name, shard, shards[shard], scores, weights)
        done += trainer.world_size
    trainer.strategy.barrier(f"score {name} {iteration}")
