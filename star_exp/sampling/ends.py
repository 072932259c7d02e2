"""Where a text ends: at an end-of-text token, or at a stop string wherever tokens begin and end."""

from collections.abc import Sequence
from weakref import WeakKeyDictionary

from transformers import PreTrainedTokenizerBase

from star_exp.sampling.base import Policy

UNFINISHED = "\N{REPLACEMENT CHARACTER}"  # what the bytes of half a character are decoded to


class Ends:
    """Asked after each sampled token. A text is decoded only where that token may close a stop
    string, and then only the end of the text."""

    def __init__(self, policy: Policy, stop: Sequence[str]):
        if "" in stop:
            raise ValueError("a stop string is empty: every text would end before its first token")
        self.policy, self.stop = policy, tuple(stop)
        self.tokens = policy.end_tokens
        texts = _texts(policy.tokenizer) if stop else []
        last = {string[-1] for string in stop}
        if any(ord(character) > 127 for character in last):
            last.add(UNFINISHED)  # its last byte may be a token of its own
        self.closing = {token for token, text in enumerate(texts) if not last.isdisjoint(text)}
        self.looked_at = self.tokens | self.closing  # at no other does a text end
        self.known = len(texts)  # a model may have more tokens than its tokenizer: silent too
        self.silent = {token for token, text in enumerate(texts) if not text}
        self.unfinished = {token for token, text in enumerate(texts) if UNFINISHED in text}
        # a token that is not silent holds at least a byte; one token more, since the first space
        # of a text is cut by some tokenizers
        self.longest = max((len(string.encode()) for string in stop), default=0) + 1

    def overhang(self, tokens: Sequence[int], begin: int = 0) -> int | None:
        """How many characters the last of tokens[begin:] has behind the stop string that it
        completes; None if it completes none."""
        if tokens[-1] not in self.closing:
            return None
        tokens = tokens[self._start(tokens, begin) :]
        text = self.policy.decode(tokens)
        before = len(self.policy.decode(tokens[:-1]).rstrip(UNFINISHED))
        ends = [
            place + len(string)
            for string in self.stop
            if (place := text.find(string, max(0, before - len(string) + 1))) >= 0
        ]
        return len(text) - min(ends) if ends else None

    def _start(self, tokens: Sequence[int], begin: int) -> int:
        """Where to decode from, so as to see the longest stop string, and no half character."""
        start, heard = len(tokens) - 1, 0
        while start > begin and (heard < self.longest or tokens[start] in self.unfinished):
            start -= 1
            heard += tokens[start] < self.known and tokens[start] not in self.silent
        return start


_TEXTS: WeakKeyDictionary[PreTrainedTokenizerBase, list[str]] = WeakKeyDictionary()


def _texts(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Of each token, as it reads behind another one. Once for each tokenizer: it takes a second
    for 150,000 tokens."""
    if len(_TEXTS.get(tokenizer, ())) != len(tokenizer):  # tokens may have been added
        another = tokenizer.encode("a", add_special_tokens=False)[-1:]

        def decoded(texts: list[list[int]]) -> list[str]:
            return tokenizer.batch_decode(
                texts, skip_special_tokens=True, clean_up_tokenization_spaces=False
            )

        behind = decoded([[*another, token] for token in range(len(tokenizer))])
        [alone] = decoded([another])
        _TEXTS[tokenizer] = [text.removeprefix(alone) for text in behind]
    return _TEXTS[tokenizer]
