"""A base model of the Hugging Face hub, or of a local folder in its format.

    star-exp run task=gsm8k model=hf model.name=HuggingFaceTB/SmolLM2-135M

The hub's own cache holds what was fetched (HF_HOME says where); without a network it is read from
there. Only safetensors are fetched, and no code of a repository is ever run.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from star_exp.errors import UserError
from star_exp.models.base import BaseModel, Progress
from star_exp.tasks.base import Task

FETCHED = ["*.safetensors", "*.json", "*.model", "*.txt", "*.jinja"]
NOT_FETCHED = ["*/*", "consolidated*"]  # the same weights in other formats
ADVICE = {  # the first that fits
    GatedRepoError: "its owner must let you in: ask on its page, then `hf auth login`",
    RepositoryNotFoundError: "there is none of this name, or it is private: `hf auth login`",
    RevisionNotFoundError: "it has no such revision; model.revision=null is its newest",
    LocalEntryNotFoundError: "the hub can't be reached, and it was not fetched before",
    HFValidationError: "it is no name of the hub (OWNER/NAME), and there is no such folder",
    HfHubHTTPError: "the hub refused",
}


@dataclass(frozen=True)
class HubModel(BaseModel):
    """
    name: OWNER/NAME on the hub, or a folder.
    revision: branch, tag or commit; None: the newest. Of a folder it means nothing.
    """

    name: str
    revision: str | None = None

    def prepare(self, task: Task, cache: Path, progress: Progress) -> Path:
        """The folder itself, or that of the hub's cache. UserError where it can't be had."""
        folder = self._folder()
        if not (folder / "config.json").exists():
            raise UserError(
                f"model.name={self.name}: {folder} holds no config.json; expected a model in "
                "Hugging Face format (a run's final model is in RUN_DIR/model)"
            )
        if not any(folder.glob("*.safetensors")):
            raise UserError(
                f"model.name={self.name}: there are no safetensors in {folder}, and other formats "
                "may run code when they are read. Choose a revision that has them (on the hub "
                "often model.revision=refs/pr/1), or convert it and set model.name=FOLDER"
            )
        return folder

    def description(self, task: Task) -> dict[str, Any]:
        if Path(self.name).is_dir():
            return {"source": "folder", "name": self.name}
        return {"source": "hub", "name": self.name, "commit": self._folder(fetch=False).name}

    def _folder(self, fetch: bool = True) -> Path:
        if Path(self.name).is_dir():
            return Path(self.name)
        try:
            return Path(
                snapshot_download(
                    self.name,
                    revision=self.revision,
                    allow_patterns=FETCHED,
                    ignore_patterns=NOT_FETCHED,
                    local_files_only=not fetch,
                )
            )
        except tuple(ADVICE) as error:
            advice = next(advice for kind, advice in ADVICE.items() if isinstance(error, kind))
            raise UserError(
                f"model.name={self.name}, revision {self.revision or 'main'}: {advice}. "
                f"A model on this disk is model.name=FOLDER"
            ) from error
