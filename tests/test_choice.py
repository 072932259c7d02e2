"""Noise and the choice of a token: against plain Python, transformers' own rules, chi-square."""

import math

import pytest
import torch
from scipy import stats
from torch import Tensor
from transformers import GenerationConfig
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from star_exp.sampling import choice
from star_exp.sampling.choice import BLOCK, CANDIDATES, Choice, draw, nucleus
from star_exp.sampling.noise import gumbel, uniform
from star_exp.seeds import derive

MASK = 2**64 - 1
GOLDEN = 0x9E3779B97F4A7C15


def seeds_of(name: str, count: int) -> Tensor:
    return torch.tensor([derive(name, row) for row in range(count)])


def zeros(count: int) -> Tensor:
    return torch.zeros(count, dtype=torch.long)


def random_logits(*shape: int, seed: int = 0, scale: float = 2.0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=rng, dtype=torch.float64) * scale


# noise


def mix(x: int) -> int:
    """splitmix64 (Steele et al. 2014, figure 16), in Python's own integers."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def expected_uniform(seed: int, position: int, token: int) -> float:
    start = mix((mix(seed) + (position + 1) * GOLDEN) & MASK)
    return ((mix((start + (token + 1) * GOLDEN) & MASK) >> 11) + 0.5) * 2.0**-53


def test_uniform_noise_is_splitmix64_of_seed_position_and_token():
    seeds, positions = [0, 1, 2**63 - 1, derive("a"), derive("b")], [3, 0, 2**31, 7, 7]
    tokens = [*range(7), 49151, -2, -3, -200]
    ours = uniform(torch.tensor(seeds), torch.tensor(positions), torch.tensor(tokens))
    assert ours.dtype == torch.float64
    assert ours.tolist() == [
        [expected_uniform(seed, position, token) for token in tokens]
        for seed, position in zip(seeds, positions, strict=True)
    ]


def test_tokens_of_noise_may_differ_from_row_to_row():
    seeds, positions = seeds_of("row", 3), torch.tensor([5, 0, 9])
    tokens = torch.tensor([[1, 2, 3, 4], [900, 1, 2, 3], [7, 7, 8, 0]])
    together = uniform(seeds, positions, tokens)
    for row in range(3):
        alone = uniform(seeds[row, None], positions[row, None], tokens[row])
        assert torch.equal(together[row], alone[0])


def test_uniform_noise_is_uniform_over_rows_positions_and_tokens():
    seeds = seeds_of("row", 200)
    drawn = torch.stack(
        [uniform(seeds, zeros(200) + position, torch.arange(50)) for position in range(20)]
    )
    assert stats.kstest(drawn.flatten().numpy(), "uniform").pvalue > 1e-3
    for axis in range(3):
        one, next_one = (
            drawn.narrow(axis, first, drawn.shape[axis] - 1).flatten() for first in (0, 1)
        )
        neighbours = torch.corrcoef(torch.stack([one, next_one]))[0, 1]
        assert abs(neighbours) < 4 / math.sqrt(len(one))


def test_gumbel_max_draws_from_the_softmax():
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, 0.5], dtype=torch.float64)
    seeds = seeds_of("draw", 20_000)
    chosen = (logits + gumbel(seeds, zeros(len(seeds)), torch.arange(5))).argmax(-1)
    assert fit(chosen, logits) > 1e-3


# drawing


def fit(chosen: Tensor, logits_V: Tensor) -> float:
    """p-value of the tokens as draws from softmax(logits); neighbours are pooled until a bin
    expects at least 8 of them."""
    expected_V = (logits_V.double().softmax(-1) * len(chosen)).tolist()
    observed_V = chosen.bincount(minlength=len(expected_V)).tolist()
    assert len(observed_V) == len(expected_V)
    observed, expected, seen, due = [], [], 0, 0.0
    for count, share in zip(observed_V, expected_V, strict=True):
        seen, due = seen + count, due + share
        if due >= 8:
            observed.append(seen)
            expected.append(due)
            seen, due = 0, 0.0
    observed[-1] += seen
    expected[-1] += due
    assert len(observed) >= 2
    return float(stats.chisquare(observed, expected).pvalue)


def drawn(logits_V: Tensor, count: int, name: str, at_once: int = 2000) -> Tensor:
    """Tokens of `count` rows with the same logits."""
    return torch.cat(
        [
            draw(logits_V.expand(len(seeds), -1), seeds, zeros(len(seeds)) + 4)
            for seeds in seeds_of(name, count).split(at_once)
        ]
    )


@pytest.mark.parametrize("vocabulary", [2, 255, 256, 257, 512, 700])
def test_a_draw_is_from_the_softmax(vocabulary):
    logits = random_logits(vocabulary, seed=vocabulary)
    assert fit(drawn(logits, 10_000, f"draw/{vocabulary}"), logits) > 1e-3


def test_a_draw_from_a_flat_distribution_reaches_the_last_block():
    chosen = drawn(torch.zeros(700), 10_000, "flat")
    assert fit(chosen, torch.zeros(700)) > 1e-3
    assert chosen.max() == 699


def test_a_draw_from_a_large_peaked_vocabulary_is_from_the_softmax():
    logits = random_logits(49_152, seed=1, scale=1.5).float()
    peaks = torch.tensor([0, 3, 255, 256, 257, 1000, 25_000, 25_001, 49_151])
    logits[peaks] = logits.logsumexp(0) + torch.linspace(-3.0, -0.5, len(peaks))
    chosen = drawn(logits, 1500, "peaked", at_once=100)
    assert fit(chosen, logits) > 1e-3
    rare = ~torch.isin(chosen, peaks)
    share = 1 - logits.softmax(-1)[peaks].sum().item()
    assert stats.binomtest(int(rare.sum()), len(chosen), share).pvalue > 1e-3


def test_tokens_that_are_ruled_out_are_never_drawn():
    logits = torch.full((700,), float("-inf"))
    allowed = torch.tensor([3, 260, 261, 699])  # a block in which one is left, and one with none
    logits[allowed] = torch.tensor([1.0, 0.0, -1.0, 2.0])
    chosen = drawn(logits, 5000, "few")
    assert set(chosen.tolist()) == set(allowed.tolist())
    assert fit(torch.searchsorted(allowed, chosen), logits[allowed]) > 1e-3


def test_up_to_a_block_a_draw_is_the_argmax_of_logits_and_noise():
    for vocabulary in (1, 97, BLOCK):
        logits, seeds = random_logits(50, vocabulary, seed=3), seeds_of("argmax", 50)
        positions = torch.arange(50)
        noise = gumbel(seeds, positions, torch.arange(vocabulary))
        assert torch.equal(draw(logits, seeds, positions), (logits + noise).argmax(-1))


def test_a_draw_beyond_a_block_is_by_the_masses_of_blocks_then_inside_one():
    logits, seeds, positions = random_logits(20, 700), seeds_of("stages", 20), torch.arange(20)
    chosen = draw(logits, seeds, positions).tolist()

    def noise(row: int, token: int) -> float:
        return -math.log(-math.log(expected_uniform(int(seeds[row]), row, token)))

    for row in range(20):
        scores = logits[row].tolist()
        blocks = [range(first, min(first + BLOCK, 700)) for first in range(0, 700, BLOCK)]
        masses = [math.log(sum(math.exp(scores[t]) for t in block)) for block in blocks]
        best = max(range(3), key=lambda b: masses[b] + noise(row, -2 - b))
        assert chosen[row] == max(blocks[best], key=lambda t: scores[t] + noise(row, t))


def test_no_noise_is_used_for_a_block_and_for_a_token(monkeypatch):
    """Nor the noise of the next position; or else the two stages would not be independent."""
    used: list[float] = []

    def recorded(seeds: Tensor, positions: Tensor, tokens: Tensor) -> Tensor:
        used.extend(uniform(seeds, positions, tokens).flatten().tolist())
        return gumbel(seeds, positions, tokens)

    monkeypatch.setattr(choice, "gumbel", recorded)
    for position in range(5):
        draw(random_logits(4, 49_152), seeds_of("apart", 4), zeros(4) + position)
    assert len(used) == 5 * 4 * (49_152 // BLOCK + BLOCK)
    assert len(set(used)) == len(used)


@pytest.mark.parametrize("vocabulary", [97, 700, 49_152])
def test_a_token_depends_on_its_row_alone(vocabulary):
    rows = 12
    logits, seeds = random_logits(rows, vocabulary).float(), seeds_of("alone", rows)
    positions = torch.arange(rows) % 5
    seen = random_logits(rows, vocabulary, seed=1) > 1
    rules = Choice(temperature=1.1, top_k=60, top_p=0.95, min_p=0.01, repetition_penalty=1.2)

    def of(order: list[int]) -> list[tuple[int, float]]:
        tokens, logprobs = rules(logits[order], seeds[order], positions[order], seen[order])
        return list(zip(tokens.tolist(), logprobs.tolist(), strict=True))

    together = of(list(range(rows)))
    for order in ([3], [7, 3], [11, 0, 5, 2, 8], list(reversed(range(rows)))):
        for row, (token, logprob) in zip(order, of(order), strict=True):
            assert token == together[row][0]
            assert logprob == pytest.approx(together[row][1], abs=1e-6)


def test_seed_and_position_each_give_another_token():
    logits = torch.zeros(1, 700)
    by_seed = [draw(logits, torch.tensor([s]), zeros(1)).item() for s in range(50)]
    by_position = [draw(logits, torch.tensor([0]), zeros(1) + p).item() for p in range(50)]
    assert len(set(by_seed)) > 35
    assert len(set(by_position)) > 35


# rules


def theirs(rules: Choice, logits_B_V: Tensor, texts: list[list[int]]) -> Tensor:
    """What transformers' generate leaves of the logits; its order: penalty, temperature, k, p, min.

    texts: of each row, as long as one another.
    """
    wanted = [
        (rules.repetition_penalty != 1, RepetitionPenaltyLogitsProcessor, rules.repetition_penalty),
        (True, TemperatureLogitsWarper, rules.temperature),
        (rules.top_k > 0, TopKLogitsWarper, rules.top_k),
        (rules.top_p < 1, TopPLogitsWarper, rules.top_p),
        (rules.min_p > 0, MinPLogitsWarper, rules.min_p),
    ]
    processors = LogitsProcessorList([made(value) for on, made, value in wanted if on])
    return processors(torch.tensor(texts), logits_B_V.clone())  # type: ignore[arg-type]


def test_generate_applies_the_rules_in_this_order(policy):
    settings = GenerationConfig(
        do_sample=True, temperature=0.7, top_k=5, top_p=0.9, min_p=0.1, repetition_penalty=1.3
    )
    found = policy.model._get_logits_processor(
        settings, input_ids_seq_length=1, encoder_input_ids=torch.tensor([[1]])
    )
    assert [type(processor) for processor in found] == [
        RepetitionPenaltyLogitsProcessor,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
        MinPLogitsWarper,
    ]


RULES = [
    Choice(0.7),
    Choice(1.0, top_k=1),
    Choice(1.3, top_k=20),
    Choice(1.0, top_k=10_000),
    Choice(1.0, top_p=0.5),
    Choice(0.6, top_p=0.95),
    Choice(1.0, top_p=0.01),  # the likeliest stays
    Choice(1.0, min_p=0.05),
    Choice(1.5, min_p=0.999),
    Choice(1.0, repetition_penalty=1.3),
    Choice(1.0, repetition_penalty=0.8),
    Choice(0.9, top_p=0.9, top_k=30, min_p=0.03, repetition_penalty=1.2),
    Choice(1.6, top_p=0.7, top_k=300, min_p=0.001),
]


@pytest.mark.parametrize("rules", RULES, ids=repr)
@pytest.mark.parametrize("vocabulary", [97, 3000])
def test_what_the_rules_leave_is_what_transformers_leaves(rules, vocabulary, monkeypatch):
    logits = random_logits(40, vocabulary, seed=5, scale=3.0)
    rng = torch.Generator().manual_seed(6)
    texts = torch.randint(vocabulary, (40, 12), generator=rng)
    seen = torch.zeros(40, vocabulary, dtype=torch.bool).scatter_(1, texts, True)
    left: list[Tensor] = []

    def recorded(logits_B_V: Tensor, seeds: Tensor, positions: Tensor) -> Tensor:
        left.append(logits_B_V)
        return draw(logits_B_V, seeds, positions)

    monkeypatch.setattr(choice, "draw", recorded)
    tokens, _ = rules(
        logits, seeds_of("rules", 40), zeros(40), seen if rules.repetition_penalty != 1 else None
    )
    expected = theirs(rules, logits, texts.tolist())
    assert torch.equal(left[0].isfinite(), expected.isfinite())
    finite = expected.isfinite()
    assert finite.any(-1).all()
    torch.testing.assert_close(left[0][finite], expected[finite], rtol=1e-12, atol=1e-12)
    assert finite.gather(1, tokens[:, None]).all()


def test_tokens_are_drawn_from_what_transformers_leaves():
    rules = Choice(0.9, top_p=0.9, top_k=30, min_p=0.03, repetition_penalty=1.2)
    logits, text = random_logits(1, 700, seed=8, scale=0.8), [5, 9, 300, 9]
    seen = torch.zeros(1, 700, dtype=torch.bool)
    seen[0, text] = True
    seeds = seeds_of("drawn", 3000)
    tokens, _ = rules(logits.expand(3000, -1), seeds, zeros(3000), seen.expand(3000, -1))
    left = theirs(rules, logits, [text])[0]
    allowed = left.isfinite().nonzero().flatten()
    assert 20 < len(allowed) < 30
    assert torch.isin(tokens, allowed).all()
    assert fit(torch.searchsorted(allowed, tokens), left[allowed]) > 1e-3


def test_the_nucleus_is_the_smallest_set_with_the_mass():
    logits = random_logits(50, 9)
    for top_p in (0.1, 0.5, 0.9):
        check_nucleus(logits, top_p)


@pytest.mark.parametrize("top_p", [0.05, 0.3, 0.9, 0.999])
def test_the_nucleus_of_a_flat_distribution_may_be_larger_than_the_candidates(top_p):
    logits = random_logits(3, 5000, scale=0.05)
    logits[1, :3] += 20  # a small one beside them
    sizes = check_nucleus(logits, top_p)
    assert sizes[1] <= 3
    assert (sizes[0] > CANDIDATES) == (top_p > 0.25)


def check_nucleus(logits_B_V: Tensor, top_p: float) -> list[int]:
    """Sizes of the nuclei, each compared with a sum in plain Python."""
    left, sizes = nucleus(logits_B_V, top_p), []
    for row, kept in zip(logits_B_V, left, strict=True):
        ranked = row.softmax(-1).sort(descending=True)
        masses, mass, size = ranked.values.tolist(), 0.0, 0
        while mass < top_p:
            mass, size = mass + masses[size], size + 1
        inside = set(ranked.indices[:size].tolist())
        assert set(kept.isfinite().nonzero().flatten().tolist()) == inside
        assert torch.equal(kept[kept.isfinite()], row[kept.isfinite()])
        sizes.append(size)
    return sizes


# log-probabilities, precision, settings


@pytest.mark.parametrize("rules", [Choice(), Choice(repetition_penalty=3.0), RULES[-2]], ids=repr)
@pytest.mark.parametrize(
    ("dtype", "error"), [("float64", 1e-12), ("float32", 1e-5), ("bfloat16", 1e-5)]
)
def test_log_probabilities_are_those_of_the_logits_as_they_came(rules, dtype, error):
    logits = random_logits(30, 700, seed=9).to(getattr(torch, dtype))
    before = logits.clone()
    tokens, logprobs = rules(logits, seeds_of("raw", 30), zeros(30), random_logits(30, 700) > 2)
    exact = logits.double().log_softmax(-1).gather(1, tokens[:, None]).squeeze(1)
    assert logprobs.tolist() == pytest.approx(exact.tolist(), abs=error)
    assert logprobs.dtype == (torch.float64 if dtype == "float64" else torch.float32)
    assert torch.equal(logits, before)


def test_bfloat16_logits_are_drawn_from_as_if_they_had_come_in_float32():
    logits = random_logits(200, 700, seed=9).bfloat16()
    seeds, positions = seeds_of("half", 200), torch.arange(200)
    for rules in (Choice(), Choice(1.0), Choice(0.8, top_p=0.9, min_p=0.01)):
        ours = rules(logits, seeds, positions, None)
        same = rules(logits.float(), seeds, positions, None)
        assert torch.equal(ours[0], same[0])
        assert torch.equal(ours[1], same[1])


def test_greedy_takes_the_highest_logit_whatever_the_seed():
    logits = random_logits(30, 700)
    for name in ("a", "b"):
        tokens, _ = Choice()(logits, seeds_of(name, 30), zeros(30), None)
        assert torch.equal(tokens, logits.argmax(-1))


def test_greedy_with_a_penalty_takes_the_highest_after_it():
    logits = torch.tensor([[3.0, 2.5, 1.0, -1.0], [-0.5, -0.6, -2.0, -3.0]])
    seen = torch.tensor([[True, False, False, False], [True, False, False, False]])
    tokens, _ = Choice(repetition_penalty=1.5)(logits, seeds_of("p", 2), zeros(2), seen)
    assert tokens.tolist() == [1, 1]  # 3 / 1.5 = 2 < 2.5; -0.5 * 1.5 = -0.75 < -0.6


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_p", math.nan),
        ("top_k", -1),
        ("min_p", -0.1),
        ("min_p", 1.0),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", -1.0),
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=rf"sampling\.{name}={value}: expected"):
        Choice(**{name: value})
