"""Checkpoints that appear whole, on any file system, and that may be moved with their run."""

from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

from star_exp.files import replace_file


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes beside the target and renames. Lightning's own goes through $TMPDIR, and copies from
    there where that is another file system: a kill then leaves half a checkpoint."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path, storage_options=None) -> None:
        with replace_file(Path(path)) as file:
            torch.save(checkpoint, file)


class MovableCheckpoint(ModelCheckpoint):
    """Remembers its best model although the run directory was moved or copied since."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        before, now = str(state_dict["dirpath"]), str(self.dirpath)

        def moved(value: Any) -> Any:
            if isinstance(value, dict):
                return {moved(key): inner for key, inner in value.items()}
            return value.replace(before, now, 1) if isinstance(value, str) else value

        super().load_state_dict({name: moved(value) for name, value in state_dict.items()})
