"""What a training step costs: packed and padded batches, and TRL's SFTTrainer if it is installed.

    python benchmarks/training.py [--model smollm2] [--dtype bfloat16] [--device cuda]

tiny: the model and the sums of `make run`. smollm2: random weights in the shape of SmolLM2-135M,
and examples about as long as GSM8K's (log-normal, median 160 tokens, sigma 0.4, cut to 40 and
1,024), of which the first 40% is prompt. A step is the making of its batch, forward, backward and
AdamW.

In each turn every engine takes the same `steps` * `batch` examples, one engine after the other: as
drawn, or first cut into batches of like length ("by length": what data.bucket does). A square
matrix product in the same dtype is timed in each turn, too. Medians over the turns are printed, and
the quartiles of steps/s.

FLOP/s are those that the examples need, whatever an engine computes besides. With N_body the
weights of the layers and N_head those of the output, T tokens read, S of them with a trained
successor, a width A of attention (heads * width of a head) and examples of L tokens, a step needs

    6 * N_body * T + 6 * N_head * S + layers * sum over examples of 6 * L**2 * A

(2 a weight forward and 4 backward; each of the two products of attention 2 * L**2 * A, halved since
it is causal, and twice that backward).
"""

import argparse
import copy
import importlib.util
import random
import statistics
import tempfile
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from measure import Size, matrix_peak, now, quartiles
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from star_exp.data.encode import IGNORED, Example, pack, pad, text_example, trained_tokens
from star_exp.models.tiny import TinyModel, character_tokenizer
from star_exp.modules import packing
from star_exp.modules.loss import summed_loss
from star_exp.sampling.base import Policy
from star_exp.schedule import batches
from star_exp.tasks.arithmetic import Arithmetic

LEARNING_RATE = 1e-4
Engine = Callable[[list[Example]], float]  # trains on the examples of a turn; seconds
Collate = Callable[[Sequence[Example]], dict[str, Tensor]]
BATCHES: dict[str, tuple[Collate, bool]] = {  # how ours are made; whether by length
    "packed": (pack, False),
    "packed, by length": (pack, True),
    "padded": (partial(pad, token=0), False),
    "padded, by length": (partial(pad, token=0), True),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", choices=["tiny", "smollm2"], default="tiny")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--steps", type=int, help="of a turn; default: 20 (tiny), 2 (smollm2)")
    parser.add_argument(
        "--batch", type=int, help="examples a step; default: 64 (tiny), 16 (smollm2)"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device, dtype = torch.device(options.device), getattr(torch, options.dtype)
    tiny = options.model == "tiny"
    steps, batch = options.steps or (20 if tiny else 2), options.batch or (64 if tiny else 16)

    torch.manual_seed(0)
    model = LlamaForCausalLM(TinyModel()._config() if tiny else smollm2()).train()
    torch.nn.Module.to(model, device, dtype)
    draw = sums(model) if tiny else like_gsm8k(model)
    others = trl_engines(copy.deepcopy(model), batch, steps)
    engines = own_engines(model, batch) | others
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    flops: dict[str, list[float]] = {name: [] for name in engines}
    tokens, peaks = [], []
    for turn in range(-1, options.turns):  # the first warms up
        examples = draw(random.Random(turn), steps * batch)
        first = turn % len(engines)  # none is always the first, or after the same one
        order = [*engines][first:] + [*engines][:first]
        measured = {name: engines[name](examples) for name in order}
        peak = matrix_peak(device, dtype)
        if turn >= 0:
            peaks.append(peak)
            tokens.append(sum(len(example.tokens) - 1 for example in examples))
            for name, passed in measured.items():
                seconds[name].append(passed)
                flops[name].append(needed_flops(model, examples) / passed)
    peak = statistics.median(peaks)
    print(
        f"{options.model}, {options.dtype}, {device.type}, {options.threads} threads; {batch} "
        f"examples a step, {statistics.mean(tokens) / steps:,.0f} tokens; {options.turns} turns of "
        f"{steps} steps; matrix products reach {peak / 1e9:,.0f} GFLOP/s"
    )
    print(f"{'':20}  steps/s (quartiles)      examples/s  tokens/s   GFLOP/s  of peak  padding")
    padding = padding_shares(draw(random.Random(0), steps * batch), batch)
    for name, passed in seconds.items():
        rates = sorted(steps / each for each in passed)
        low, middle, high = quartiles(rates)
        rate = statistics.median(t / s for t, s in zip(tokens, passed, strict=True))
        reached = statistics.median(flops[name])
        share = f"{padding[name]:.1%}" if name in padding else ""
        print(
            f"{name:20} {middle:8.2f} ({low:.2f}-{high:.2f})".ljust(45)
            + f"{middle * batch:11,.1f} {rate:9,.0f} {reached / 1e9:9,.1f} {reached / peak:8.1%}"
            + f" {share:>8}"
        )


def smollm2() -> LlamaConfig:
    return LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
    )


def sums(model: PreTrainedModel) -> Callable[[random.Random, int], list[Example]]:
    """Seed rationales of addition with and without hint, every length equally often."""
    policy = Policy(model, character_tokenizer())
    texts = Arithmetic().exemplar_texts(50)
    pool = [text_example(policy, prompt, rationale) for prompt, rationale in texts]
    return lambda rng, number: rng.choices(pool, k=number)


def like_gsm8k(model: PreTrainedModel) -> Callable[[random.Random, int], list[Example]]:
    def example(rng: random.Random) -> Example:
        length = min(1024, max(40, int(160 * rng.lognormvariate(0, 0.4))))
        tokens = rng.choices(range(2, model.config.vocab_size), k=length)
        return Example(tuple(tokens), tuple(place >= 0.4 * length for place in range(length)))

    return lambda rng, number: [example(rng) for _ in range(number)]


def own_engines(model: PreTrainedModel, batch: int) -> dict[str, Engine]:
    """Ours; the model takes padded batches as ever after packing is enabled."""
    if not packing.enable(model):
        raise RuntimeError(f"{type(model).__name__} can't read packed rows")
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=True)
    return {name: partial(train, model, optimizer, batch, *how) for name, how in BATCHES.items()}


def train(
    model: PreTrainedModel,
    optimizer: torch.optim.Optimizer,
    batch: int,
    collate: Collate,
    by_length: bool,
    examples: list[Example],
) -> float:
    begun = now(model.device)
    for chosen in cut(examples, batch, by_length):
        step = {name: tensor.to(model.device) for name, tensor in collate(chosen).items()}
        (summed_loss(model, step) / trained_tokens(chosen)).backward()
        optimizer.step()
        optimizer.zero_grad()
    return now(model.device) - begun


def cut(examples: list[Example], batch: int, by_length: bool) -> list[list[Example]]:
    """The batches of a turn, as drawn or by length."""
    lengths, window = [len(example.tokens) for example in examples], len(examples) // batch
    order = batches(range(len(examples)), batch, lengths, window if by_length else 1, seed=0)
    return [[examples[index] for index in step] for step in order]


def trl_engines(own: PreTrainedModel, batch: int, steps: int) -> dict[str, Engine]:
    """TRL's trainer, padded and padding-free, if it is installed; only its loop is timed.

    Padding-free without flash attention it gives the model one mask over the whole row.
    """
    if importlib.util.find_spec("trl") is None:
        return {}
    from datasets import Dataset
    from transformers import PrinterCallback, TrainerCallback
    from trl import SFTConfig, SFTTrainer  # pyright: ignore[reportMissingImports]

    warnings.filterwarnings("ignore", ".*gradient_checkpointing. is deprecated.*")

    class Timer(TrainerCallback):
        begun = passed = 0.0

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.begun = now(own.device)

        def on_train_end(self, *_: Any, **__: Any) -> None:
            self.passed = now(own.device) - self.begun

    def engine(padding_free: bool, examples: list[Example]) -> float:
        rows = {
            "input_ids": [[*each.tokens] for each in examples],
            "labels": [
                [t if said else IGNORED for t, said in zip(each.tokens, each.trained, strict=True)]
                for each in examples
            ],
        }
        timer = Timer()
        with tempfile.TemporaryDirectory() as folder:
            settings = SFTConfig(
                output_dir=folder,
                per_device_train_batch_size=batch,
                max_steps=steps,
                learning_rate=LEARNING_RATE,
                optim="adamw_torch_fused",
                max_grad_norm=0.0,
                gradient_checkpointing=False,
                bf16=False,  # the model has its dtype
                padding_free=padding_free,
                max_length=None,
                dataset_kwargs={"skip_prepare_dataset": True},
                use_cpu=own.device.type == "cpu",
                dataloader_pin_memory=own.device.type != "cpu",
                logging_strategy="no",
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
            )
            trainer = SFTTrainer(
                own,
                settings,
                train_dataset=Dataset.from_dict(rows),
                processing_class=character_tokenizer(),
                callbacks=[timer],
            )
            trainer.remove_callback(PrinterCallback)
            trainer.train()
        return timer.passed

    return {
        "TRL, padded": partial(engine, False),
        "TRL, padding-free": partial(engine, True),
    }


def padding_shares(examples: list[Example], batch: int) -> dict[str, float]:
    """What part of the tokens that a model reads is padding, counted from the batches."""
    read = sum(len(example.tokens) - 1 for example in examples)
    return {
        name: 1 - read / sum(collate(s)["input_ids"].numel() for s in cut(examples, batch, sorts))
        for name, (collate, sorts) in BATCHES.items()
    }


def needed_flops(model: PreTrainedModel, examples: list[Example]) -> float:
    """Of forward and backward, as the head of this file says."""
    size, lengths = Size.of(model), [len(example.tokens) - 1 for example in examples]
    attention = size.attention * sum(6 * length**2 for length in lengths)
    return 6 * size.body * sum(lengths) + 6 * size.head * trained_tokens(examples) + attention


if __name__ == "__main__":
    main()
