"""A base model made on the spot: a small Llama that has seen a few rationales, and nothing else.

STaR needs a model that can follow a handful of exemplars; one of 0.8 M parameters has no such gift.
So the exemplars go into its weights: it is trained on `seed_rationales` worked problems of each
length, once as they are and once with the answer shown, for `steps` steps. That is the counterpart
of the few-shot prompt of the paper (10 exemplars for each length, with and without hints, from
pools of 50), and it is said so in the log and in results.json. The result is M_0, made once and
kept in a cache under a hash of all that made it.
"""

import hashlib
import json
import logging
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import torch
from filelock import FileLock
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from star_exp import __version__
from star_exp.data.encode import pack, text_example, trained_tokens
from star_exp.files import explained, replace_folder
from star_exp.models.base import BaseModel, Progress
from star_exp.modules import packing
from star_exp.modules.loss import summed_loss
from star_exp.sampling.base import Policy
from star_exp.schedule import LinearDecay, passes
from star_exp.seeds import derive
from star_exp.tasks.base import Task

log = logging.getLogger("star_exp")

PAD, END = "<pad>", "<end>"
CHARACTERS = "\n" + "".join(chr(code) for code in range(32, 127))
VOCABULARY = {PAD: 0, END: 1} | {c: place for place, c in enumerate(CHARACTERS, start=2)}


@dataclass(frozen=True)
class TinyModel(BaseModel):
    """
    hidden, layers, heads, feedforward: of the Llama; max_positions: longest text in tokens.
    seed_rationales: of each group of the task; `steps` of `batch_size` are trained on them.
    seed: of the weights and the order.
    """

    tokens: Literal["characters"] = "characters"
    hidden: int = 128
    layers: int = 4
    heads: int = 4
    feedforward: int = 352
    max_positions: int = 512
    rope_theta: float = 10_000.0
    seed_rationales: int = 50
    steps: int = 400
    batch_size: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 0.3
    seed: int = 0

    def prepare(self, task: Task, cache: Path, progress: Progress) -> Path:
        """The folder of M_0, from the cache or made now; `progress` hears of each step.

        A folder appears whole: one that was interrupted is made again, to the same bits. Other
        processes that want the same model wait.
        """
        examples = task.exemplar_texts(self.seed_rationales)
        folder = cache / f"tiny-{self._hash(examples)}"
        with explained(folder):
            cache.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{folder}.lock"):
                if not (folder / "base.json").exists():
                    self._make(examples, folder, progress)
        return folder

    def description(self, task: Task) -> dict[str, Any]:
        return {
            "source": "made on the spot",
            "seed_rationales": len(task.exemplars(self.seed_rationales)),
            "seed_rationales_per_group": self.seed_rationales,
            "shown": "each with and without the answer",
            "counterpart_of": "the few-shot exemplars of the paper's prompts",
            "steps": self.steps,
            "batch_size": self.batch_size,
        }

    def _make(self, examples: list[tuple[str, str]], folder: Path, progress: Progress) -> None:
        log.info(
            "making the base model: %d seed rationales (half of them with the answer shown), %d "
            "steps of %d; the counterpart of the paper's few-shot exemplars",
            len(examples),
            self.steps,
            self.batch_size,
        )
        with torch.random.fork_rng():
            torch.manual_seed(derive(self.seed, "tiny", "weights") % 2**32)
            policy = Policy(LlamaForCausalLM(self._config()), character_tokenizer())
        policy.model.generation_config = GenerationConfig(
            eos_token_id=VOCABULARY[END], pad_token_id=VOCABULARY[PAD]
        )
        self._train(policy, examples, progress)
        with replace_folder(folder) as temporary:
            policy.model.save_pretrained(temporary)
            policy.tokenizer.save_pretrained(temporary)
            (temporary / "base.json").write_text(json.dumps(self._made_of(), indent=2) + "\n")

    def _config(self) -> LlamaConfig:
        return LlamaConfig(
            vocab_size=len(VOCABULARY),
            hidden_size=self.hidden,
            intermediate_size=self.feedforward,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.heads,
            max_position_embeddings=self.max_positions,
            rope_parameters={"rope_type": "default", "rope_theta": self.rope_theta},
            tie_word_embeddings=True,
            pad_token_id=VOCABULARY[PAD],
            eos_token_id=VOCABULARY[END],
            bos_token_id=None,
        )

    def _hash(self, examples: list[tuple[str, str]]) -> str:
        made_of = [__version__, torch.__version__, self._made_of(), examples]
        return hashlib.blake2b(json.dumps(made_of).encode(), digest_size=6).hexdigest()

    def _made_of(self) -> dict[str, Any]:
        """Its own settings, without those that say how it is trained afterwards."""
        later = {field.name for field in fields(BaseModel)}
        return {name: value for name, value in asdict(self).items() if name not in later}

    def _train(self, policy: Policy, texts: list[tuple[str, str]], progress: Progress) -> None:
        examples = [text_example(policy, prompt, rationale) for prompt, rationale in texts]
        order = passes(examples, self.steps * self.batch_size, derive(self.seed, "tiny", "order"))
        optimizer = torch.optim.AdamW(
            policy.model.parameters(),
            lr=self.learning_rate,
            betas=(0.9, 0.98),
            weight_decay=self.weight_decay,
            fused=True,
        )
        rate = LinearDecay(warmup=20)
        packing.enable(policy.model)
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: rate(step, self.steps)
        )
        for step in range(self.steps):
            batch = order[step * self.batch_size : (step + 1) * self.batch_size]
            loss = summed_loss(policy.model, pack(batch))
            (loss / trained_tokens(batch)).backward()
            torch.nn.utils.clip_grad_norm_(policy.model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()
            progress(step + 1, self.steps)


def character_tokenizer() -> PreTrainedTokenizerFast:
    """One token a character of printable ASCII and the newline; no unknown token: others raise."""
    tokenizer = Tokenizer(models.WordLevel(VOCABULARY))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=END)
