"""The paged engine: models as they are, beginnings read once, rows that leave, memory that ends."""

import logging
from dataclasses import replace

import pytest
import torch

from star_exp.errors import UserError
from star_exp.sampling import engine
from star_exp.sampling.base import Request, fingerprint
from star_exp.sampling.pages import Pages
from star_exp.sampling.sampler import TextSampler
from star_exp.seeds import derive
from tests.conftest import random_policy
from tests.families import NOT_SERVED, SERVED, family

FEW_SHOT = "one and one are two. two and two are four. "
QUESTIONS = ["6+2=", "what are six and two?", "x", "a question that is longer than a page" * 3, "7"]


def requests(policy, prompts, copies=1):
    return [
        Request(policy.encode(prompt), derive("test", place, copy))
        for place, prompt in enumerate(prompts)
        for copy in range(copies)
    ]


def tokens(samples):
    return [sample.tokens for sample in samples]


def generated(policy, request, count):
    """By transformers, alone and unpadded."""
    prompt = torch.tensor([request.prompt])
    text = policy.model.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=count, do_sample=False
    )
    return tuple(text[0, len(request.prompt) :].tolist())


@pytest.fixture
def read(policy, monkeypatch):
    """read(policy): how many tokens each call of the model gets, from now on."""

    def count(policy):
        calls: list[int] = []
        layer = policy.model.get_input_embeddings()
        handle = layer.register_forward_pre_hook(lambda _, args: calls.append(args[0].numel()))
        handles.append(handle)
        return calls

    handles: list = []
    yield count
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("name", SERVED)
def test_greedy_texts_are_those_of_generate(name):
    policy = family(name)
    for prefix, copies in (("", 1), (FEW_SHOT, 1), (FEW_SHOT, 3)):
        asked = requests(policy, [prefix + question for question in QUESTIONS], copies)
        sampler = TextSampler(max_new_tokens=30, batch_size=4)
        expected = [generated(policy, request, 30) for request in asked[::copies]]
        assert len(set(expected)) > 2
        drawn = tokens(sampler.sample(policy, asked, stop=()))
        assert drawn == [text for text in expected for _ in range(copies)]


@pytest.mark.parametrize("name", ["mistral", "gemma3", "gpt2", "gptj"])
def test_both_engines_draw_the_same_samples(name):
    policy = family(name)
    asked = requests(policy, [FEW_SHOT + question for question in QUESTIONS], copies=4)
    hot = {"temperature": 1.0, "max_new_tokens": 40}
    ours = TextSampler(batch_size=7, **hot).sample(policy, asked, stop=["ab"])
    theirs = TextSampler(engine="reference", **hot).sample(policy, asked, stop=["ab"])
    assert tokens(ours) == tokens(theirs)
    assert len(set(tokens(ours))) == len(asked)


@pytest.mark.parametrize("name", NOT_SERVED)
def test_a_model_that_can_not_be_served_is_named_with_the_way_out(name):
    policy = family(name)
    asked = requests(policy, QUESTIONS[:2])
    with pytest.raises(UserError, match=r"ForCausalLM can't be .* sampling\.engine=reference"):
        TextSampler(max_new_tokens=5).sample(policy, asked, stop=())
    samples = TextSampler(max_new_tokens=5, engine="reference").sample(policy, asked, stop=())
    assert tokens(samples) == [generated(policy, request, 5) for request in asked]


def test_a_model_whose_attention_is_another_is_found_out():
    """One that goes through the registry, and then does more than attend."""
    policy = family("llama")
    layer = policy.model.model.layers[0]
    layer.self_attn.o_proj.register_forward_pre_hook(
        lambda _, args: (args[0] + args[0].cumsum(1),)  # tokens see each other in another way too
    )
    with pytest.raises(UserError, match="its logits are others"):
        TextSampler().sample(policy, requests(policy, QUESTIONS), stop=())


@pytest.mark.parametrize("copies", [1, 4])
def test_nothing_is_read_twice_and_nothing_is_read_for_rows_that_have_ended(policy, read, copies):
    asked = requests(policy, [FEW_SHOT + question for question in QUESTIONS], copies)
    sampler = TextSampler(temperature=1.0, max_new_tokens=50, batch_size=6)
    sampler.sample(policy, asked[:1], stop=())  # the model is known
    calls = read(policy)
    samples = sampler.sample(policy, asked, stop=())
    prefix = len(policy.encode(FEW_SHOT))
    rest = [len(policy.encode(question)) for question in QUESTIONS]
    if copies > 1:  # the last token of a question is read by each of its rows, for its logits
        long = [length > engine.SHARED for length in rest]
        rest = [
            length - 1 + copies if shared else length * copies
            for length, shared in zip(rest, long, strict=True)
        ]
    written = sum(len(sample.tokens) - 1 for sample in samples)  # the last one is not read
    assert sum(calls) == prefix + sum(rest) + written


def test_the_prefix_is_read_once_for_the_same_weights(read):
    policy = random_policy(seed=5)
    sampler, prefix = TextSampler(max_new_tokens=4), len(policy.encode(FEW_SHOT))
    asked = requests(policy, [FEW_SHOT + question for question in QUESTIONS])
    others = requests(policy, [FEW_SHOT + question for question in ("y?", "zz?")])
    calls = read(policy)

    def prefix_was_read(asked, named=True) -> bool:
        calls.clear()
        name = fingerprint(policy.model) if named else None
        samples = sampler.sample(replace(policy, weights=name), asked, stop=())
        was_read = prefix in calls
        assert tokens(samples) == [generated(policy, request, 4) for request in asked]
        return was_read

    assert prefix_was_read(asked)
    assert not prefix_was_read(asked)
    assert not prefix_was_read(others)
    assert prefix_was_read(asked, named=False)  # they may be others
    assert not prefix_was_read(asked)
    optimizer = torch.optim.AdamW(policy.model.parameters(), lr=0.1, fused=True)
    policy.model(torch.tensor([[5, 6, 7]])).logits.sum().backward()
    optimizer.step()
    assert prefix_was_read(asked)
    assert not prefix_was_read(asked)
    policy.model.model.embed_tokens.weight.data[40:60] *= -3
    assert prefix_was_read(asked)


@pytest.fixture
def pages_held(monkeypatch):
    """[the largest number of pages held at a time, of rows and questions together], from when it is
    set to [0]."""
    most: list[int] = [0]
    known: set[Pages] = set()
    reserve = Pages._reserve

    def noted(self, capacity):
        reserve(self, capacity)
        if not most[0]:
            known.clear()
        known.add(self)
        most[0] = max(most[0], sum(pages.capacity for pages in known if pages.size == engine.PAGE))

    monkeypatch.setattr(Pages, "_reserve", noted)
    return most


@pytest.mark.parametrize("pages", [4, 7, 20])
def test_a_small_cache_is_not_outgrown_and_gives_the_same_samples(
    policy, monkeypatch, pages_held, pages
):
    monkeypatch.setattr(engine, "PAGE", 16)
    asked = requests(policy, [FEW_SHOT + question for question in ("a" * 20, "b" * 30)], 12)
    hot = {"temperature": 1.0, "max_new_tokens": 24}
    free = TextSampler(**hot).sample(policy, asked, stop=())
    assert pages_held[0] > 20
    pages_held[0] = 0
    bytes_a_token = 2 * 2 * 32 * 8  # keys and values, 2 layers, 2 heads of 16, float64
    gib = bytes_a_token * (16 * pages + len(policy.encode(FEW_SHOT))) / 2**30
    small = TextSampler(cache_gib=gib, **hot)
    assert tokens(small.sample(policy, asked, stop=())) == tokens(free)
    assert 0 < pages_held[0] <= pages


def test_a_cache_too_small_for_one_row_is_an_error_that_says_how_large(policy):
    asked = requests(policy, [FEW_SHOT + "a" * 100])
    with pytest.raises(UserError, match=r"a single sample needs .* Raise sampling\.cache_gib"):
        TextSampler(cache_gib=1e-6).sample(policy, asked, stop=())


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory"
        ),
    ],
)
def test_out_of_memory_it_goes_on_with_less(policy, monkeypatch, caplog, error):
    asked = requests(policy, [FEW_SHOT + question for question in QUESTIONS], copies=6)
    hot = TextSampler(temperature=1.0, max_new_tokens=40, batch_size=30)
    expected = hot.sample(policy, asked, stop=["e"], on_stop=waits)
    reserve = Pages._reserve

    def limited(self, capacity):
        if capacity > 9:
            raise error
        reserve(self, capacity)

    monkeypatch.setattr(Pages, "_reserve", limited)
    with caplog.at_level(logging.WARNING, "star_exp"):
        samples = hot.sample(policy, asked, stop=["e"], on_stop=waits)
    assert tokens(samples) == tokens(expected)
    assert [s.truncated for s in samples] == [s.truncated for s in expected]
    said = [record.getMessage() for record in caplog.records]
    assert said
    assert all("out of memory while sampling" in line and "cache_gib" in line for line in said)


@pytest.mark.parametrize("call", [1, 2, 5])
def test_out_of_memory_while_rows_leave_no_row_is_lost_or_doubled(policy, monkeypatch, call):
    asked = requests(policy, [FEW_SHOT + question for question in QUESTIONS], copies=5)
    hot = TextSampler(temperature=1.0, max_new_tokens=40, batch_size=30)
    expected = tokens(hot.sample(policy, asked, stop=()))
    keep, calls = Pages.keep, [0]

    def fails_once(self, kept):
        calls[0] += 1
        if calls[0] == call:
            raise torch.OutOfMemoryError("no memory to move a page")
        keep(self, kept)

    monkeypatch.setattr(Pages, "keep", fails_once)
    streamed = list(hot.stream(policy, asked, stop=()))
    assert calls[0] > call
    assert sorted(index for index, _ in streamed) == list(range(len(asked)))
    assert [sample.tokens for _, sample in sorted(streamed, key=lambda pair: pair[0])] == expected


def waits(index: int, text: str) -> str | None:
    return "(wait)" if "wait" not in text else None


def test_out_of_memory_with_a_single_row_is_an_error(policy, monkeypatch):
    def never(self, capacity):
        raise torch.OutOfMemoryError("no memory at all")

    monkeypatch.setattr(Pages, "_reserve", never)
    with pytest.raises(UserError, match="no memory at all"):
        TextSampler(max_new_tokens=4).sample(policy, requests(policy, QUESTIONS), stop=())


def test_another_error_is_not_taken_for_a_lack_of_memory(policy, monkeypatch):
    def broken(self, capacity):
        raise RuntimeError("something else")

    monkeypatch.setattr(Pages, "_reserve", broken)
    with pytest.raises(RuntimeError, match="something else"):
        TextSampler(max_new_tokens=4).sample(policy, requests(policy, QUESTIONS), stop=())


@pytest.mark.parametrize("limit", ["TOKENS", "SCORES"])
@pytest.mark.parametrize("name", ["gemma3", "gptj"])
def test_long_texts_are_read_in_parts(monkeypatch, read, name, limit):
    policy = family(name)
    asked = requests(policy, [FEW_SHOT + question for question in QUESTIONS], copies=2)
    sampler = TextSampler(max_new_tokens=10)
    expected = sampler.sample(policy, asked, stop=())
    monkeypatch.setattr(engine, limit, {"TOKENS": 7, "SCORES": 4 * 7 * 250}[limit])
    policy = family(name)  # whose prefix is not known yet
    calls = read(policy)
    assert tokens(sampler.sample(policy, asked, stop=())) == tokens(expected)
    most = {"TOKENS": 10, "SCORES": 27}[limit]  # rows take a token each
    assert max(calls[7:]) <= most  # the first ones ask what the model is like
    assert len(calls) > 30


def test_many_logits_are_chosen_from_in_parts(policy, monkeypatch):
    from star_exp.sampling import rows

    asked = requests(policy, QUESTIONS, copies=5)
    sampler = TextSampler(temperature=1.0, max_new_tokens=20)
    expected = sampler.sample(policy, asked, stop=())
    monkeypatch.setattr(rows, "LOGITS", 3 * 97)
    assert tokens(sampler.sample(policy, asked, stop=())) == tokens(expected)


def test_bfloat16_samples_have_the_log_probabilities_of_the_model():
    policy = family("llama", torch.bfloat16)
    asked = requests(policy, [FEW_SHOT + question for question in QUESTIONS], copies=3)
    samples = TextSampler(temperature=1.0, max_new_tokens=30).sample(policy, asked, stop=())
    for request, sample in zip(asked, samples, strict=True):
        with torch.no_grad():
            text = torch.tensor([[*request.prompt, *sample.tokens]])
            logprobs = policy.model(text).logits[0].float().log_softmax(-1)
        start = len(request.prompt) - 1
        theirs = [logprobs[start + place, token] for place, token in enumerate(sample.tokens)]
        errors = (torch.tensor(sample.logprobs) - torch.stack(theirs)).abs()
        assert errors.mean() < 0.1
        assert errors.max() < 1.0  # their logits are hundreds apart, with 8 bits


def test_gradients_are_as_before_after_sampling():
    policy = family("gemma3")
    text = torch.tensor([policy.encode(QUESTIONS[1])])

    def gradient():
        policy.model.zero_grad()
        policy.model(text, labels=text).loss.backward()
        return [
            weights.grad.clone()  # type: ignore[union-attr]
            for weights in policy.model.parameters()
        ]

    before = gradient()
    TextSampler(max_new_tokens=5).sample(policy, requests(policy, QUESTIONS), stop=())
    assert all(torch.equal(a, b) for a, b in zip(before, gradient(), strict=True))


def test_a_prefix_that_was_not_read_to_its_end_is_read_again():
    policy = replace(random_policy(seed=7), weights="these")
    asked = requests(policy, [FEW_SHOT + question for question in QUESTIONS])
    sampler = TextSampler(max_new_tokens=6)
    sampler.sample(policy, requests(policy, QUESTIONS), stop=())  # the model is known

    def interrupt(*_):
        handle.remove()
        raise KeyboardInterrupt

    handle = policy.model.model.layers[1].register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        sampler.sample(policy, asked, stop=())
    samples = sampler.sample(policy, asked, stop=())
    assert tokens(samples) == [generated(policy, request, 6) for request in asked]


def test_the_common_prefix_leaves_each_prompt_a_token():
    assert engine.common_prefix([]) == ()
    assert engine.common_prefix([(1, 2)]) == ()  # too short to be worth it
    long = tuple(range(100))
    assert engine.common_prefix([long]) == long[:99]
    assert engine.common_prefix([long, long[:40]]) == long[:39]
    assert engine.common_prefix([(*long, 7), (*long, 8, 9), (*long, 7, 7)]) == long
    assert engine.common_prefix([long, (5, *long)]) == ()


def test_portions_hold_all_tokens_in_order_and_no_more_than_a_call_bears():
    unread = {3: 5, 1: 12, 0: 1, 2: 0, 7: 3}
    parts = list(engine.portions(unread, 7))
    assert parts == [[(3, 5), (1, 2)], [(1, 7)], [(1, 3), (0, 1), (7, 3)]]
