"""General text beside the rollouts, against forgetting: windows of it in every optimizer step.

    data.general={_target_: star_exp.data.general.GeneralText, path: wiki.jsonl, share: 0.125}

A model that goes on reading what it was made from forgets less of it: rehearsal (Robins 1995), as
pre-training text mixed into fine-tuning (Ouyang et al. 2022, arXiv:2203.02155, section 3.5).
"""

from itertools import islice

import torch
from torch import Tensor

from star_exp.data.encode import Example
from star_exp.errors import UserError
from star_exp.sampling.base import Policy
from star_exp.schedule import passes
from star_exp.tasks.sources import Source, texts


class GeneralText:
    """
    share: of the examples of each optimizer step, in (0, 1). The loss is a mean over tokens, in
        which windows longer than the rollouts weigh more than that.
    tokens: of a window, trained on but for the first, which nothing precedes.
    path, hub, config, revision, split: what is read; see tasks/sources.py: a .txt file, too.
    field: the name of the text in a row.
    separator: what stands between the texts, which are read as one; blank ones are left out.
    texts: only so many rows are read, the first ones; None: all.
    """

    def __init__(
        self,
        share: float,
        tokens: int = 256,
        path: str | None = None,
        hub: str | None = None,
        config: str | None = None,
        revision: str | None = None,
        split: str = "train",
        field: str = "text",
        separator: str = "\n\n",
        texts: int | None = None,
    ):
        if not 0 < share < 1:
            raise UserError(f"data.general.share={share}: expected a share in (0, 1)")
        if tokens < 2:
            raise UserError(f"data.general.tokens={tokens}: expected at least 2")
        if path is None and hub is None:
            raise UserError("data.general: expected path=FILE_OR_FOLDER, or hub=DATASET")
        self.share, self.tokens, self.split = share, tokens, split
        self.field, self.separator, self.texts = field, separator, texts
        self.source = Source(
            splits={split: split},
            path=path,
            hub=hub,
            config=config,
            revision=revision,
            setting="data.general.path",
        )
        self._read: Tensor | None = None

    def windows(self, batch_size: int) -> int:
        """How many of the examples of a step are windows. UserError if none is, or all are."""
        number = round(self.share * batch_size)
        if not 0 < number < batch_size:
            raise UserError(
                f"data.general.share={self.share} and data.batch_size={batch_size} clash: {number} "
                f"of {batch_size} examples would be general text, and at least one has to be, and "
                "one a rollout; change the share, or raise data.batch_size"
            )
        return number

    def draw(self, policy: Policy, number: int, seed: int) -> list[Example]:
        """So many windows: shuffled passes over all of them, which do not overlap.

        UserError where the text can't be read, or does not fill one window.
        """
        if self._read is None:
            self._read = torch.tensor(self._encoded(policy), dtype=torch.int32)
        length = self.tokens - len(policy.begin)
        windows = self._read[: len(self._read) // length * length].view(-1, length)
        if not len(windows):
            raise UserError(
                f"data.general: {self.source.path or self.source.hub} has {len(self._read)} tokens "
                f"in all, and a window takes {length}; lower data.general.tokens={self.tokens}, or "
                "give a longer text"
            )
        trained = (False, *[True] * (self.tokens - 1))
        return [
            Example((*policy.begin, *windows[place].tolist()), trained)
            for place in passes(range(len(windows)), number, seed)
        ]

    def _encoded(self, policy: Policy) -> list[int]:
        """The tokens of all texts, in their order."""
        tokens: list[int] = []
        for where, text in islice(texts(self.source, self.split, self.field), self.texts):
            if text.strip():
                tokens += _encode(policy, text + self.separator, where)
        return tokens


def _encode(policy: Policy, written: str, where: str) -> tuple[int, ...]:
    try:
        return policy.encode(written)
    except Exception as error:  # tokenizers has no narrower one, for a vocabulary that lacks it
        raise UserError(
            f"data.general: {where}: the model's tokenizer can't read it ({error}); give another "
            "text, or choose a model with a larger vocabulary"
        ) from error
