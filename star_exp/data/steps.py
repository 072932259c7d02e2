"""The steps of a solution, in tokens: where each ends, and what a process reward model judges.

    4931 2580 6280 #883        of 624+259=, a token a character
        5    10   15  19       each step's end: so many tokens it takes to write it

A step is judged by the state that has read its last token, from which the next one is said. A task
says where steps end in a text; in tokens, a step ends with the first one whose text reaches that
place. Where that goes on into the next step, or holds all of it, they share a judgement.
"""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

from star_exp.data.encode import Example, example
from star_exp.records import Rollout
from star_exp.sampling.base import Policy
from star_exp.sampling.ends import UNFINISHED, _texts
from star_exp.tasks.base import Task


def step_ends(policy: Policy, task: Task, rollout: Rollout) -> list[int]:
    """How many tokens of the completion end each step, increasing.

    The last is that of the whole text, a stop string included and an end-of-text token not. Of a
    text that was cut off, only the steps that another token follows: the last one is not done.
    """
    return sorted({*_ends(policy, task, rollout)})


def begun(policy: Policy, task: Task, rollout: Rollout) -> list[int]:
    """The same of what another step follows: the whole text has an answer of its own."""
    ends = step_ends(policy, task, rollout)
    return ends if rollout.truncated else ends[:-1]


def right_steps(policy: Policy, task: Task, rollout: Rollout) -> dict[int, bool] | None:
    """By its end: whether a step, and all before it, are right; None where nobody knows.

    Of steps that end in one token, the last one counts.
    """
    right = task.right_steps(rollout.asked, rollout.text)
    if right is None:
        return None
    return dict(zip(_ends(policy, task, rollout), right, strict=False))


def judged(policy: Policy, task: Task, prompt: Sequence[int], rollout: Rollout) -> Example:
    """The rollout as an example of which the tokens behind its steps are trained, and no other.

    What was cut off before its first step was done is judged before its last token.
    """
    tokens = example(policy, prompt, rollout).tokens
    behind = {len(prompt) + end for end in step_ends(policy, task, rollout)}
    behind = behind or {len(tokens) - 1}
    return Example(tokens, tuple(place in behind for place in range(len(tokens))))


def text_lengths(policy: Policy, tokens: Sequence[int]) -> list[int]:
    """How many characters the first token has, the first two, and so on; none that isn't whole."""
    texts, whole = _texts(policy.tokenizer), policy.decode(tokens)
    parts = [texts[token] if token < len(texts) else "" for token in tokens]
    joined = "".join(parts)
    if joined.endswith(whole):  # nearly always; some tokenizers cut a text's first space
        cut = len(joined) - len(whole)
        return [length - cut for length in accumulate(map(len, parts))]
    counts = range(1, len(tokens) + 1)
    decoded = (len(policy.decode(tokens[:count]).rstrip(UNFINISHED)) for count in counts)
    return [*accumulate(decoded, max)]


def _ends(policy: Policy, task: Task, rollout: Rollout) -> list[int]:
    """In tokens, of each step of the text; of what was cut off, without those at its very end."""
    tokens, lengths = rollout.tokens, _lengths_of_rollout(policy, rollout)
    if rollout.truncated:
        ends = [reaching(lengths, place) for place in task.steps(rollout.text)]
        return [end for end in ends if end < len(tokens)]
    whole = len(tokens) - (bool(tokens) and tokens[-1] in policy.end_tokens)
    before = task.steps(rollout.text)[:-1]
    return [*(min(reaching(lengths, place), whole) for place in before), whole]


def reaching(lengths: Sequence[int], characters: int) -> int:
    """How many of the first tokens have so many characters of text; all, if none have."""
    return min(bisect_left(lengths, characters) + 1, len(lengths))


def _lengths_of_rollout(policy: Policy, rollout: Rollout) -> list[int]:
    """The lengths of a rollout's first tokens, whose segments were decoded one by one."""
    found, before = [], 0
    for segment in rollout.segments:
        lengths = text_lengths(policy, segment.tokens)
        found += [before + min(length, len(segment.text)) for length in lengths]
        if lengths:
            found[-1] = before + len(segment.text)
        before += len(segment.text)
    return found
