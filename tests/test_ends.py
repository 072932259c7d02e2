"""Where texts end: against decoding everything anew for each token, with four kinds of tokens."""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from star_exp.models.tiny import END, PAD, character_tokenizer
from star_exp.sampling.base import Policy
from star_exp.sampling.ends import Ends

READ = [
    "the cat sat on the mat.\n\nthe dog sat too.\n\nthe café is closed. aaa aaaa\n",
    "Q: 6+2=?\nA: 8.\n\nQ: what is the café? A: the answer is (b).\n\n",
]
PIECES = [
    "the", " the", "cat", " ", "\n", ".", ".\n\n", "\n\n", "a", "aa", "aaa", "b", "Q:", "A: ",
    "the answer is", " (b)", "8", "6+2=",
]  # fmt: skip
LETTERS = ["é", "café", "。", "😀", "日本。", "è"]  # of two, three and four bytes
STOPS = [
    ["\n"], ["\n\n"], [".\n\n"], ["."], ["Q:"], ["\nQ:"], ["aa"], ["aaa"], ["he"], ["e a"], ["t"],
    ["\n", "\n\n"], ["aa", "a"], ["the", "he"], ["the answer is", "answer"], ["aa", "a the"],
    ["at", ".\n", "8", "the cat"], ["the answer is (b)."], ["b", "ab", "aab"],
]  # fmt: skip
LETTER_STOPS = [
    ["。"], ["é"], ["fé", "f"], ["😀"], ["本。"], ["。\n"], ["é", "è"], ["a。", "aé"], ["caf", "é"],
    ["\n", "。", "é"],
]  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """A tokenizer, and the bytes of each token that stands for some."""

    policy: Policy
    tokens: dict[int, bytes]

    def spell(self, text: str, rng: random.Random) -> list[int]:
        """Tokens that stand for the text, as a model might write it: any of those that fit."""
        data, spelled = text.encode(), []
        while data:
            token = rng.choice([t for t, part in self.tokens.items() if data.startswith(part)])
            spelled.append(token)
            data = data[len(self.tokens[token]) :]
        return spelled


def kind(tokenizer: PreTrainedTokenizerBase, as_bytes: Callable[[str], bytes]) -> Kind:
    special = set(tokenizer.all_special_tokens)
    tokens = {
        token: as_bytes(name)
        for name, token in tokenizer.get_vocab().items()
        if name not in special
    }
    # no weights are asked, only for the end tokens of the generation config
    return Kind(Policy(cast(Any, SimpleNamespace(generation_config=None)), tokenizer), tokens)


def characters() -> Kind:
    return kind(character_tokenizer(), str.encode)


def byte_level() -> Kind:
    """As those of GPT-2, SmolLM, Llama 3, Qwen."""
    tokenizer = Tokenizer(models.BPE())
    words = Regex(r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\n]*|\s+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(words, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    train(tokenizer, 330, pre_tokenizers.ByteLevel.alphabet())
    byte_of = {character: byte for byte, character in bytes_to_unicode().items()}
    return kind(wrapped(tokenizer), lambda name: bytes(byte_of[character] for character in name))


def words() -> Kind:
    """As those of sentencepiece: spaces begin words, and a text's first one is cut."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    train(tokenizer, 120, sorted(set("".join([*READ, *PIECES, *LETTERS]).replace(" ", "▁"))))
    return kind(wrapped(tokenizer), spaced)


def words_and_bytes() -> Kind:
    """As those of Llama 2: what has no token of its own, the newline too, is written in bytes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    train(tokenizer, 100, [])
    written = json.loads(tokenizer.to_str())
    vocabulary = written["model"]["vocab"]
    for name in [name for name in vocabulary if "\n" in name or not name.strip("▁").isascii()]:
        del vocabulary[name]
    written["model"]["merges"] = [
        pair for pair in written["model"]["merges"] if {*pair, "".join(pair)} <= set(vocabulary)
    ]
    numbers = {name: number for number, name in enumerate(vocabulary)}
    fallback = {f"<0x{byte:02X}>": len(numbers) + byte for byte in range(256)}
    written["model"] |= {"vocab": numbers | fallback, "byte_fallback": True}
    tokenizer = Tokenizer.from_str(json.dumps(written))
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*parts, decoders.Strip(" ", 1, 0)])
    return kind(
        wrapped(tokenizer),
        lambda name: bytes([fallback[name] - len(numbers)]) if name in fallback else spaced(name),
    )


def spaced(name: str) -> bytes:
    return name.replace("▁", " ").encode()


def train(tokenizer: Tokenizer, size: int, alphabet: list[str]) -> None:
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[PAD, END],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(READ, trainer)


def wrapped(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=END)


@pytest.fixture(scope="module")
def kinds() -> dict[str, Kind]:
    makers = (characters, byte_level, words, words_and_bytes)
    return {maker.__name__: maker() for maker in makers}


KINDS = pytest.mark.parametrize("name", ["characters", "byte_level", "words", "words_and_bytes"])


# the second method


def places(text: str, stop: Sequence[str]) -> set[int]:
    """Behind each stop string in the text."""
    return {
        at + len(string)
        for string in stop
        for at in range(len(text))
        if text.startswith(string, at)
    }


def expected(policy: Policy, tokens: Sequence[int], stop: Sequence[str]) -> list[int | None]:
    """Of each token: characters behind the first stop string that it completes, decoding all."""
    found: list[int | None] = []
    known: set[int] = set()
    for count in range(1, len(tokens) + 1):
        text = policy.decode(tokens[:count])
        now = places(text, stop)
        found.append(len(text) - min(now - known) if now - known else None)
        known = now
    return found


def check(
    policy: Policy, tokens: list[int], begin: int, stop: list[str], ends: Ends | None = None
) -> tuple[list[int | None], int]:
    """What was expected, and how many characters are cut at the first stop string."""
    ends = ends or Ends(policy, stop)
    wanted = expected(policy, tokens[begin:], stop)
    first = next((n for n, hit in enumerate(wanted) if hit is not None), len(wanted) - 1)
    for number, hit in enumerate(wanted[: first + 1]):
        found = ends.overhang(tokens[: begin + number + 1], begin)
        written = [policy.decode([token]) for token in tokens]
        assert found == hit, (stop, begin, number, written)
    # behind a stop string a text goes on where on_stop forces nothing
    for number in range(first + 1, len(wanted)):
        assert ends.overhang(tokens[: begin + number + 1], begin) == wanted[number]
    return wanted, wanted[first] or 0


def random_text(rng: random.Random, pieces: Sequence[str]) -> str:
    return "".join(rng.choice(pieces) for _ in range(rng.randint(2, 14)))


# tests


def test_the_tokenizers_are_as_the_tests_need_them(kinds):
    """Stop strings end inside tokens, and characters are split over some."""
    assert {b".\n\n", b"\n", b" the", b"\xc3", b"\xa9"} <= set(kinds["byte_level"].tokens.values())
    assert {b" the", b" "} <= set(kinds["words"].tokens.values())
    assert {b" the", b"\n", b"\xa9"} <= set(kinds["words_and_bytes"].tokens.values())
    for name, one in kinds.items():
        text = "Q: the cat sat.\n\nA: b" + ("" if name == "characters" else " 。é😀日本")
        assert one.policy.decode(one.spell(text, random.Random(0))) == text
        assert one.policy.decode(one.policy.encode(text)) == text


@KINDS
@pytest.mark.parametrize("seed", range(3))
def test_texts_end_at_the_first_token_that_completes_a_stop_string(kinds, name, seed):
    one, rng = kinds[name], random.Random(seed)
    hits = inside = 0
    for stop in STOPS:
        ends = Ends(one.policy, stop)
        for _ in range(12):
            text = random_text(rng, PIECES)
            tokens = one.spell(text, rng) if rng.random() < 0.5 else list(one.policy.encode(text))
            begin = rng.choice([0, 0, rng.randrange(len(tokens))])
            wanted, cut = check(one.policy, tokens, begin, stop, ends)
            hits += any(hit is not None for hit in wanted)
            inside += cut > 0
    assert hits > 60
    assert (inside > 1) == (name != "characters")


@pytest.mark.parametrize("name", ["byte_level", "words"])
@pytest.mark.parametrize("seed", range(3))
def test_a_stop_string_may_hold_characters_that_are_split_over_tokens(kinds, name, seed):
    one, rng = kinds[name], random.Random(seed)
    hits = 0
    for stop in LETTER_STOPS:
        ends = Ends(one.policy, stop)
        for _ in range(12):
            text = random_text(rng, [*PIECES[:10], *LETTERS])
            tokens = one.spell(text, rng) if rng.random() < 0.5 else list(one.policy.encode(text))
            begin = rng.choice([0, 0, rng.randrange(len(tokens))])
            wanted, _ = check(one.policy, tokens, begin, stop, ends)
            hits += any(hit is not None for hit in wanted)
    assert hits > 30


@pytest.mark.parametrize("seed", range(3))
def test_tokens_of_any_bytes_end_where_their_text_does(kinds, seed):
    """What a model with byte-level tokens writes need not be characters."""
    one, rng = kinds["byte_level"], random.Random(seed)
    some = [token for token, data in one.tokens.items() if set(data) & set("é。\n".encode())]
    hits = 0
    for stop in (["é"], ["。"], ["\n"], ["\n", "é"], ["。", "a"]):
        ends = Ends(one.policy, stop)
        for _ in range(25):
            tokens = [rng.choice(some) for _ in range(25)]
            wanted, _ = check(one.policy, tokens, rng.choice([0, 9]), stop, ends)
            hits += any(hit is not None for hit in wanted)
    assert hits > 40


def test_a_newline_in_bytes_is_seen_behind_a_character_in_bytes(kinds):
    policy = kinds["words_and_bytes"].policy
    tokens = list(policy.encode("the cat😀\nthe"))
    names = policy.tokenizer.convert_ids_to_tokens(tokens)
    assert names[-6:-1] == ["<0xF0>", "<0x9F>", "<0x98>", "<0x80>", "<0x0A>"]
    assert policy.decode(tokens[:-1]) == "the cat😀\n"
    assert Ends(policy, ["\n"]).overhang(tokens[:-1]) == 0


def test_stop_strings_are_seen_among_characters_in_bytes(kinds):
    one, rng = kinds["words_and_bytes"], random.Random(0)
    for stop in LETTER_STOPS:
        ends = Ends(one.policy, stop)
        for _ in range(30):
            text = random_text(rng, [*PIECES[:10], *LETTERS])
            check_first(one.policy, list(one.policy.encode(text)), stop, ends)


def check_first(policy: Policy, tokens: list[int], stop: list[str], ends: Ends) -> None:
    """Up to the first stop string; behind it, half a character makes the bytes before it unreadable
    too."""
    for number, hit in enumerate(expected(policy, tokens, stop)):
        written = [policy.decode([token]) for token in tokens]
        assert ends.overhang(tokens[: number + 1]) == hit, (stop, number, written)
        if hit is not None:
            return


@pytest.mark.parametrize("name", ["words", "words_and_bytes"])
def test_a_stop_string_may_end_with_the_space_that_begins_a_token(kinds, name):
    policy = kinds[name].policy
    tokens = policy.encode("cat. the")
    assert policy.tokenizer.convert_ids_to_tokens(list(tokens))[-1] == "▁the"
    assert policy.decode(tokens) == "cat. the"
    assert Ends(policy, [". "]).overhang(tokens) == len("the")


@pytest.mark.parametrize("name", ["characters", "byte_level"])
def test_a_stop_string_may_end_with_a_space(kinds, name):
    one, rng = kinds[name], random.Random(7)
    for stop in ([". "], [" "], ["A: ", "\n "], ["a ", "aa "]):
        for _ in range(12):
            text = random_text(rng, PIECES)
            check(one.policy, one.spell(text, rng), 0, stop)
            check(one.policy, list(one.policy.encode(text)), 0, stop)


@KINDS
def test_special_tokens_within_a_stop_string_do_not_hide_it(kinds, name):
    one = kinds[name]
    pad = one.policy.tokenizer.pad_token_id
    before, behind = (one.spell(part, random.Random(0)) for part in (".", "Q"))
    check(one.policy, [*before, *[pad] * 9, *behind], 0, [".Q"])


@KINDS
def test_a_special_token_completes_nothing(kinds, name):
    policy = kinds[name].policy
    tokens = [*policy.encode("cat"), policy.tokenizer.pad_token_id]  # written "<pad>"
    for stop in (["t"], ["d"], [">"], ["pad"]):
        assert Ends(policy, stop).overhang(tokens) is None


def test_examples_by_hand(kinds):
    policy = kinds["byte_level"].policy
    number = {part: token for token, part in kinds["byte_level"].tokens.items()}
    a, end, first, second = (number[part] for part in (b"a", b".\n\n", b"\xc3", b"\xa9"))
    assert Ends(policy, ["."]).overhang([end]) == 2
    assert Ends(policy, ["\n"]).overhang([end]) == 1
    assert Ends(policy, ["\n\n"]).overhang([end]) == 0
    assert Ends(policy, ["\n\n", "."]).overhang([end]) == 2
    assert Ends(policy, ["a.\n"]).overhang([a, end]) == 1
    assert Ends(policy, ["a.\n"]).overhang([a, end], begin=1) is None
    assert Ends(policy, ["aa"]).overhang([a] * 2) == 0
    assert Ends(policy, ["aa"]).overhang([a] * 2, begin=1) is None
    assert Ends(policy, ["aa"]).overhang([a] * 3, begin=1) == 0
    assert Ends(policy, ["é"]).overhang([first]) is None
    assert Ends(policy, ["é"]).overhang([first, second]) == 0
    assert Ends(policy, ["é"]).overhang([first, second, end]) is None


@KINDS
def test_without_stop_strings_only_end_tokens_end_a_text(kinds, name):
    one = kinds[name]
    ends = Ends(one.policy, [])
    assert ends.tokens == {one.policy.tokenizer.eos_token_id}
    tokens = one.spell("the cat sat.\n\n", random.Random(0))
    assert all(ends.overhang(tokens[:count]) is None for count in range(1, len(tokens) + 1))


def test_the_end_tokens_are_those_of_the_tokenizer_and_of_the_generation_config(kinds):
    model: Any = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=[7, 9]))
    tokenizer = kinds["characters"].policy.tokenizer
    assert Ends(Policy(model, tokenizer), []).tokens == {7, 9, tokenizer.eos_token_id}


@pytest.mark.parametrize("stop", [[""], ["a", ""], ["", "\n"]])
def test_an_empty_stop_string_is_refused(kinds, stop):
    with pytest.raises(ValueError, match="stop string is empty"):
        Ends(kinds["characters"].policy, stop)


def test_a_text_is_decoded_only_where_a_stop_string_may_end(kinds):
    """And then only its end, so that long texts cost no more than short ones."""
    lengths: list[int] = []

    class Counting(Policy):
        def decode(self, tokens: Sequence[int]) -> str:
            lengths.append(len(tokens))
            return super().decode(tokens)

    policy = kinds["characters"].policy
    ends = Ends(Counting(policy.model, policy.tokenizer), ["\n\n", "Q:"])
    text = "the cat sat on the mat. " * 40 + "A: 8\n" + "the cat " * 40 + "Q:"
    tokens = policy.encode(text)
    found = [ends.overhang(tokens[:count]) for count in range(1, len(tokens) + 1)]
    assert found == [None] * (len(tokens) - 1) + [0]
    assert len(lengths) == 2 * sum(text.count(character) for character in "\n:")
    assert max(lengths) <= 5
