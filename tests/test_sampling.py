"""The sampler, whichever engine draws: seeds, ends, log-probabilities, forced tokens."""

import random

import pytest
import torch
from transformers import GenerationConfig

from star_exp.sampling.base import Request, fingerprint
from star_exp.sampling.sampler import TextSampler
from star_exp.seeds import derive
from tests.conftest import random_policy
from tests.families import family

PROMPTS = ["6+2=", "624+259=", "x", "a rather longer prompt, of other characters", "12+3="]
FEW_SHOT = "one plus one is two. two plus two is four. "
PRECISION = 5e-6  # generate turns logits to float32
ENGINES = pytest.mark.parametrize("engine", ["paged", "reference"])


def requests(policy, prompts=PROMPTS, copies=1):
    return [
        Request(policy.encode(prompt), derive("test", place, copy))
        for place, prompt in enumerate(prompts)
        for copy in range(copies)
    ]


@ENGINES
@pytest.mark.parametrize("prefix", ["", FEW_SHOT])
def test_greedy_samples_are_those_of_generate(policy, engine, prefix):
    asked = requests(policy, [prefix + prompt for prompt in PROMPTS])
    samples = TextSampler(max_new_tokens=40, engine=engine).sample(policy, asked, stop=())
    for request, sample in zip(asked, samples, strict=True):
        prompt = torch.tensor([request.prompt])
        theirs = policy.model.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=40, do_sample=False
        )[0, len(request.prompt) :].tolist()
        assert list(sample.tokens) == theirs


@pytest.mark.slow
@ENGINES
@pytest.mark.parametrize("prefix", ["", FEW_SHOT])
def test_samples_do_not_depend_on_the_batch_or_its_order(policy, engine, prefix):
    asked = requests(policy, [prefix + prompt for prompt in PROMPTS], copies=8)
    hot = {"temperature": 1.0, "max_new_tokens": 60, "engine": engine}
    together = TextSampler(batch_size=100, **hot).sample(policy, asked, stop=())
    assert any(not s.truncated for s in together)  # rows left the batch at different times
    assert len({len(s.tokens) for s in together}) > 5
    for batch_size in (1, 7):
        sampler = TextSampler(batch_size=batch_size, **hot)
        assert tokens(sampler.sample(policy, asked, stop=())) == tokens(together)
    order = random.Random(0).sample(range(len(asked)), len(asked))
    sampler = TextSampler(batch_size=9, **hot)
    permuted = sampler.sample(policy, [asked[i] for i in order], stop=())
    assert tokens(permuted) == [together[i].tokens for i in order]
    halves = [sampler.sample(policy, part, stop=()) for part in (asked[:13], asked[13:])]
    assert tokens([*halves[0], *halves[1]]) == tokens(together)


def tokens(samples):
    return [sample.tokens for sample in samples]


@pytest.mark.parametrize(
    "rules",
    [
        {"temperature": 1.0},
        {"temperature": 0.7, "top_p": 0.9, "top_k": 20, "min_p": 0.02},
        {"temperature": 1.3, "repetition_penalty": 1.3},
        {"repetition_penalty": 1.5},
    ],
)
def test_both_engines_draw_the_same_samples(policy, rules):
    asked = requests(policy, [FEW_SHOT + prompt for prompt in PROMPTS], copies=3)
    drawn = [
        TextSampler(max_new_tokens=50, engine=engine, **rules).sample(
            policy, asked, stop=["5", "t"]
        )
        for engine in ("paged", "reference")
    ]
    assert tokens(drawn[0]) == tokens(drawn[1])
    for ours, theirs in zip(*drawn, strict=True):
        assert ours.logprobs == pytest.approx(theirs.logprobs, abs=PRECISION)
        assert ours.truncated == theirs.truncated


@ENGINES
def test_the_rules_that_a_model_recommends_are_not_followed(engine):
    """Many a model of the hub comes with a repetition penalty; only its end tokens count."""
    plain, advised = random_policy(), random_policy()
    advice = {"repetition_penalty": 3.0, "top_k": 1, "temperature": 0.1, "do_sample": True}
    advised.model.generation_config = GenerationConfig(
        eos_token_id=[1, 5], pad_token_id=0, **advice
    )
    plain.model.generation_config = GenerationConfig(eos_token_id=[1, 5], pad_token_id=0)
    asked = requests(plain, copies=4)
    for sampler in (TextSampler(engine=engine), TextSampler(temperature=1.0, engine=engine)):
        expected = tokens(sampler.sample(plain, asked, stop=()))
        assert tokens(sampler.sample(advised, asked, stop=())) == expected
    assert any(text[-1] == 5 for text in expected)
    assert advised.model.generation_config.repetition_penalty == 3.0


def test_samples_come_as_soon_as_they_end(policy):
    asked = requests(policy, copies=10)
    sampler = TextSampler(temperature=1.0, max_new_tokens=60, batch_size=50)
    streamed = list(sampler.stream(policy, asked, stop=()))
    assert sorted(index for index, _ in streamed) == list(range(50))
    lengths = [len(sample.tokens) for _, sample in streamed]
    assert lengths == sorted(lengths)  # all rows began at once
    assert len(set(lengths)) > 5


def test_a_stream_that_is_given_up_leaves_the_model_as_it_was(policy):
    policy.model.train()
    before = policy.model.config._attn_implementation
    stream = TextSampler(temperature=1.0).stream(policy, requests(policy, copies=9), stop=())
    next(stream)
    assert policy.model.config._attn_implementation == before
    del stream
    assert policy.model.training
    policy.model.eval()


@ENGINES
def test_a_tokenizer_may_have_neither_pad_nor_end_token(engine):
    policy = random_policy()
    policy.tokenizer.pad_token = policy.tokenizer.eos_token = None
    policy.model.generation_config = GenerationConfig()
    samples = TextSampler(max_new_tokens=8, engine=engine).sample(policy, requests(policy), stop=())
    assert all(sample.truncated and len(sample.tokens) == 8 for sample in samples)


def test_no_requests_give_no_samples(policy):
    assert TextSampler().sample(policy, [], stop=["x"]) == []


def test_another_seed_gives_another_sample(policy):
    prompt = policy.encode("6+2=")
    asked = [Request(prompt, seed) for seed in range(20)]
    samples = TextSampler(temperature=1.0, max_new_tokens=20).sample(policy, asked, stop=())
    assert len({sample.tokens for sample in samples}) > 15  # some end at once


@ENGINES
def test_log_probabilities_are_those_of_the_untempered_model(policy, engine):
    asked = requests(policy, copies=3)
    sampler = TextSampler(
        temperature=0.6, top_p=0.9, repetition_penalty=1.2, max_new_tokens=30, engine=engine
    )
    for request, sample in zip(asked, sampler.sample(policy, asked, stop=()), strict=True):
        text = torch.tensor([[*request.prompt, *sample.tokens]])
        with torch.no_grad():
            logprobs = policy.model(text).logits[0].log_softmax(-1)
        start = len(request.prompt) - 1
        expected = [
            logprobs[start + place, token].item() for place, token in enumerate(sample.tokens)
        ]
        assert sample.logprobs == pytest.approx(expected, abs=PRECISION)


@ENGINES
def test_a_sample_ends_with_the_end_token_or_is_truncated(policy, engine):
    asked = requests(policy, copies=40)
    sampler = TextSampler(temperature=1.0, max_new_tokens=50, engine=engine)
    samples = sampler.sample(policy, asked, stop=())
    end = policy.tokenizer.eos_token_id
    assert {sample.truncated for sample in samples} == {True, False}
    for sample in samples:
        assert end not in sample.tokens[:-1]
        assert sample.truncated == (sample.tokens[-1] != end)
        assert not sample.truncated or len(sample.tokens) == 50


@ENGINES
def test_a_stop_string_over_several_tokens_ends_a_sample(policy, engine):
    asked = requests(policy, copies=30)
    sampler = TextSampler(temperature=1.0, max_new_tokens=50, engine=engine)
    free = sampler.sample(policy, asked, stop=())
    texts = [text_of(sample) for sample in free]
    stop = next(text[5:7] for text in texts if len(text) > 20)  # two characters that do occur
    stopped = sampler.sample(policy, asked, stop=[stop])
    hits = 0
    for text, before, after in zip(texts, free, stopped, strict=True):
        place = text.find(stop)
        if place < 0:
            assert after.tokens == before.tokens
        else:
            hits += 1
            assert text_of(after) == text[: place + len(stop)]
            assert not after.truncated
    assert hits >= 1


def text_of(sample):
    return "".join(segment.text for segment in sample.segments)


@ENGINES
def test_what_on_stop_answers_is_read_and_the_sample_goes_on(policy, engine):
    """Written anew, prompt and forced text in one piece, the rest is the same."""
    asked = requests(policy, [FEW_SHOT + "6+2=", FEW_SHOT + "12+3=", "x"], copies=4)
    told: list[tuple[int, str]] = []

    def on_stop(index: int, text: str) -> str | None:
        told.append((index, text))
        return " wait, " if text.count("wait") < 2 else None

    hot = TextSampler(temperature=1.0, max_new_tokens=60, batch_size=5, engine=engine)
    stops = ["a", "e", "i", "o", "1", "2", "3"]
    samples = hot.sample(policy, asked, stops, on_stop)
    assert max(len(sample.segments) for sample in samples) >= 5
    for index, (request, sample) in enumerate(zip(asked, samples, strict=True)):
        heard = [text for which, text in told if which == index]
        assert len(heard) == len(set(heard))
        kinds = [segment.sampled for segment in sample.segments]
        assert kinds == [place % 2 == 0 for place in range(len(kinds))]
        text, read = "", list(request.prompt)
        for segment in sample.segments:
            if not segment.sampled:
                assert segment.text == " wait, "
                assert segment.tokens == policy.encode(" wait, ")
                assert segment.logprobs == ()
            else:
                logits = policy.model(torch.tensor([[*read, *segment.tokens]])).logits[0]
                logprobs = logits.log_softmax(-1)[len(read) - 1 : -1]
                expected = logprobs.gather(1, torch.tensor(segment.tokens)[:, None])[:, 0]
                assert segment.logprobs == pytest.approx(expected.tolist(), abs=PRECISION)
            text, read = text + segment.text, [*read, *segment.tokens]
            if segment is not sample.segments[-1] and segment.sampled:
                assert text in heard


def test_both_engines_force_the_same_texts(policy):
    asked = requests(policy, copies=5)

    def on_stop(index: int, text: str) -> str | None:
        return "" if len(text) % 3 == 0 else f"[{len(text)}]" if len(text) < 30 else None

    drawn = [
        TextSampler(temperature=1.0, max_new_tokens=50, engine=engine).sample(
            policy, asked, ["a", "e", "1", "2"], on_stop
        )
        for engine in ("paged", "reference")
    ]
    assert tokens(drawn[0]) == tokens(drawn[1])
    assert [[s.text for s in d.segments] for d in drawn[0]] == [
        [s.text for s in d.segments] for d in drawn[1]
    ]
    assert any(not s.sampled for d in drawn[0] for s in d.segments)


@ENGINES
def test_a_forced_text_without_room_truncates_the_sample(policy, engine):
    asked = requests(policy, copies=5)
    sampler = TextSampler(temperature=1.0, max_new_tokens=20, engine=engine)
    free = sampler.sample(policy, asked, stop=())
    stop = next(text_of(s)[3] for s in free if len(s.tokens) > 10)
    samples = sampler.sample(policy, asked, [stop], lambda index, text: "x" * 30)
    cut = [sample for sample in samples if stop in text_of(sample)]
    assert cut
    for sample in cut:
        assert sample.truncated
        assert len(sample.segments) == 1
        assert text_of(sample).endswith(stop)


@ENGINES
def test_a_sample_ends_where_the_positions_of_the_model_end(engine):
    policy = family("gpt2")  # whose positions are learned: there are 256, and no more
    asked = [Request(policy.encode(prompt), 1) for prompt in ("a" * 250, "b", "c" * 253)]
    samples = TextSampler(max_new_tokens=20, engine=engine).sample(policy, asked, stop=())
    assert [len(sample.tokens) for sample in samples] == [6, 20, 3]
    assert all(sample.truncated for sample in samples)


@ENGINES
@pytest.mark.parametrize(("prompt", "expected"), [("a" * 256, "256 positions"), ("", "no tokens")])
def test_a_prompt_without_room_behind_it_is_an_error(policy, engine, prompt, expected):
    from star_exp.errors import UserError

    asked = [Request(policy.encode(prompt), 1), Request(policy.encode("b"), 2)]
    with pytest.raises(UserError, match=expected):
        TextSampler(max_new_tokens=20, engine=engine).sample(policy, asked, stop=())


@ENGINES
def test_sampling_leaves_the_model_in_the_mode_it_was_in(policy, engine):
    policy.model.train()
    TextSampler(max_new_tokens=2, engine=engine).sample(policy, requests(policy), stop=())
    assert policy.model.training
    policy.model.eval()


def test_the_fingerprint_names_the_weights(policy):
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
    "settings",
    [
        {"temperature": -1.0},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"top_k": -1},
        {"min_p": 1.0},
        {"repetition_penalty": 0.0},
        {"max_new_tokens": 0},
        {"batch_size": 0},
        {"cache_gib": 0.0},
        {"engine": "vllm"},
    ],
)
def test_a_bad_setting_is_refused_by_name(settings):
    with pytest.raises(ValueError, match=f"sampling.{next(iter(settings))}"):
        TextSampler(**settings)
