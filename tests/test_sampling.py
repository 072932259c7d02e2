"""The sampler against transformers.generate, full forward passes, and plain Python."""

import math
import random

import pytest
import torch
from scipy import stats

from star_exp.sampling.base import Request, fingerprint
from star_exp.sampling.hf import HFSampler, _nucleus
from star_exp.sampling.noise import gumbel, uniform
from star_exp.seeds import derive

PROMPTS = ["6+2=", "624+259=", "x", "a rather longer prompt, of other characters", "12+3="]


def requests(policy, prompts=PROMPTS, copies=1):
    return [
        Request(policy.encode(prompt), derive("test", place, copy))
        for place, prompt in enumerate(prompts)
        for copy in range(copies)
    ]


def test_greedy_samples_are_those_of_generate(policy):
    samples = HFSampler(max_new_tokens=40).sample(policy, requests(policy), stop=())
    for request, sample in zip(requests(policy), samples, strict=True):
        prompt = torch.tensor([request.prompt])
        theirs = policy.model.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=40, do_sample=False
        )[0, len(request.prompt) :].tolist()
        assert list(sample.tokens) == theirs


def test_samples_do_not_depend_on_the_batch_or_its_order(policy):
    asked = requests(policy, copies=8)
    hot = {"temperature": 1.0, "max_new_tokens": 60}
    together = HFSampler(batch_size=100, **hot).sample(policy, asked, stop=())
    assert any(not s.truncated for s in together)  # rows left the batch at different times
    assert len({len(s.tokens) for s in together}) > 5
    for batch_size in (1, 7):
        alone = HFSampler(batch_size=batch_size, **hot).sample(policy, asked, stop=())
        assert [s.tokens for s in alone] == [s.tokens for s in together]
    order = random.Random(0).sample(range(len(asked)), len(asked))
    permuted = HFSampler(batch_size=9, **hot).sample(policy, [asked[i] for i in order], stop=())
    assert [s.tokens for s in permuted] == [together[i].tokens for i in order]


def test_another_seed_gives_another_sample(policy):
    prompt = policy.encode("6+2=")
    asked = [Request(prompt, seed) for seed in range(20)]
    samples = HFSampler(temperature=1.0, max_new_tokens=20).sample(policy, asked, stop=())
    assert len({sample.tokens for sample in samples}) > 15  # some end at once


def test_log_probabilities_are_those_of_the_untempered_model(policy):
    asked = requests(policy, copies=3)
    sampler = HFSampler(temperature=0.6, top_p=0.9, max_new_tokens=30)
    for request, sample in zip(asked, sampler.sample(policy, asked, stop=()), strict=True):
        text = torch.tensor([[*request.prompt, *sample.tokens]])
        with torch.no_grad():
            logprobs = policy.model(text).logits[0].log_softmax(-1)
        start = len(request.prompt) - 1
        expected = [
            logprobs[start + place, token].item() for place, token in enumerate(sample.tokens)
        ]
        assert sample.logprobs == pytest.approx(expected, abs=1e-5)


def test_a_sample_ends_with_the_end_token_or_is_truncated(policy):
    asked = requests(policy, copies=40)
    samples = HFSampler(temperature=1.0, max_new_tokens=50).sample(policy, asked, stop=())
    end = policy.tokenizer.eos_token_id
    assert {sample.truncated for sample in samples} == {True, False}
    for sample in samples:
        assert end not in sample.tokens[:-1]
        assert sample.truncated == (sample.tokens[-1] != end)
        assert not sample.truncated or len(sample.tokens) == 50


def test_a_stop_string_over_several_tokens_ends_a_sample(policy):
    asked = requests(policy, copies=30)
    free = HFSampler(temperature=1.0, max_new_tokens=50).sample(policy, asked, stop=())
    texts = [policy.decode(sample.tokens) for sample in free]
    stop = next(text[5:7] for text in texts if len(text) > 20)  # two characters that do occur
    stopped = HFSampler(temperature=1.0, max_new_tokens=50).sample(policy, asked, stop=[stop])
    hits = 0
    for text, before, after in zip(texts, free, stopped, strict=True):
        place = text.find(stop)
        if place < 0:
            assert after == before
        else:
            hits += 1
            assert policy.decode(after.tokens) == text[: place + len(stop)]
            assert not after.truncated
    assert hits >= 1


def test_sampling_leaves_the_model_in_the_mode_it_was_in(policy):
    policy.model.train()
    HFSampler(max_new_tokens=2).sample(policy, requests(policy), stop=())
    assert policy.model.training
    policy.model.eval()


def test_uniform_noise_is_splitmix64_of_seed_position_and_token():
    seeds = [0, 1, 2**63 - 1, derive("a"), derive("b")]
    mask = 2**64 - 1

    def mix(x):  # Steele et al. 2014, in Python's own integers
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
        return x ^ (x >> 31)

    ours = uniform(torch.tensor(seeds), position=3, vocabulary=7)
    for row, seed in enumerate(seeds):
        start = mix((mix(seed) + 4 * 0x9E3779B97F4A7C15) & mask)
        for token in range(7):
            bits = mix((start + (token + 1) * 0x9E3779B97F4A7C15) & mask) >> 11
            assert ours[row, token].item() == (bits + 0.5) * 2.0**-53


def test_uniform_noise_is_uniform_over_rows_positions_and_tokens():
    seeds = torch.tensor([derive("row", row) for row in range(200)])
    drawn = torch.stack([uniform(seeds, position, 50) for position in range(20)])
    assert stats.kstest(drawn.flatten().numpy(), "uniform").pvalue > 1e-3
    neighbours = torch.corrcoef(torch.stack([drawn[:-1].flatten(), drawn[1:].flatten()]))[0, 1]
    assert abs(neighbours) < 4 / math.sqrt(drawn[:-1].numel())


def test_gumbel_max_draws_from_the_softmax():
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, 0.5], dtype=torch.float64)
    seeds = torch.tensor([derive("draw", row) for row in range(20_000)])
    chosen = (logits + gumbel(seeds, 0, 5)).argmax(-1)
    expected = logits.softmax(-1).numpy() * len(seeds)
    assert stats.chisquare(chosen.bincount(minlength=5).numpy(), expected).pvalue > 1e-3


def test_the_nucleus_is_the_smallest_set_with_the_mass():
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(50, 9, generator=rng, dtype=torch.float64) * 2
    for top_p in (0.1, 0.5, 0.9):
        kept = _nucleus(logits, top_p).isfinite()
        for row in range(50):
            ranked = logits[row].softmax(-1).sort(descending=True)
            mass, size = 0.0, 0
            while mass < top_p:
                mass += ranked.values[size].item()
                size += 1
            assert set(kept[row].nonzero().flatten().tolist()) == set(
                ranked.indices[:size].tolist()
            )


def test_the_fingerprint_names_the_weights(policy):
    from tests.conftest import random_policy

    assert fingerprint(random_policy().model) == fingerprint(policy.model)
    assert fingerprint(random_policy(seed=1).model) != fingerprint(policy.model)
    other = random_policy().model
    with torch.no_grad():
        weight = other.model.norm.weight
        weight[3] = torch.nextafter(weight[3], torch.tensor(2.0, dtype=weight.dtype))
    assert fingerprint(other) != fingerprint(policy.model)
    with torch.no_grad():  # two values exchanged: the sum of the bits is the same
        same = random_policy().model
        row = same.model.embed_tokens.weight[5]
        row[0], row[1] = row[1].clone(), row[0].clone()
    assert fingerprint(same) != fingerprint(policy.model)


@pytest.mark.parametrize(
    "settings", [{"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.5}, {"max_new_tokens": 0}]
)
def test_a_bad_setting_is_refused_by_name(settings):
    with pytest.raises(ValueError, match=f"sampling.{next(iter(settings))}"):
        HFSampler(**settings)
