"""Whether a rationale that was written with the answer shown says so, and so isn't one.

    leaked:      We know that the answer is 12, so 3*4=12.       (b) blotter (CORRECT) is the best.
    not leaked:  Ann has 3*4=12 nuts, so the answer is 12.

Only words are looked for, and English ones; where they may be meant otherwise they don't count. So
it is a lower bound. It can't see a rationale that reasons back from the answer in silence, steps
that are made up or wrong and end at the right answer, a hint in other words than these, or one that
is spoken of in another language.
"""

import re
from collections.abc import Sequence

from star_exp.records import Rollout

ANSWER = r"(?:correct |right |final )*answer"
# "so we know the answer" concludes from steps
NOT_SO = "".join(rf"(?<!\b{word} )(?<!\b{word}, )" for word in ("so", "now", "thus", "therefore"))
REASON = r"\b(?:since|because|as|given that|knowing that)"
SPOKEN_OF = re.compile(
    "|".join(
        (
            r"\b(?:the|this|your|given) hint\b(?! of\b)",
            r"\banswer key\b",
            # not "given by 3*4", "given in euros"
            rf"\bthe {ANSWER} (?:is|was|has been) (?:already )?"
            r"(?:given|provided|shown|told|known)\b(?! (?:by|in)\b)",
            # not "the given answer choices"
            rf"\b(?:given|provided|known) {ANSWER}\b(?! (?:choice|option)|s)",
            # not "we know the answer to the first part"
            rf"{NOT_SO}\bwe (?:already )?(?:know|are (?:told|given)|were (?:told|given)) (?:that )?"
            rf"the {ANSWER}\b(?! (?:choice|option|to (?!be\b)))",
            # not "since the answer is a whole number"
            rf"{REASON} the (?:correct|right) answer is\b",
            rf"\bbackwards? from the {ANSWER}\b",
        )
    )
)
MARK = "(CORRECT)"  # that of questions with choices, behind the right one
FIRST = {"0", "1"}  # what an enumeration begins with: "1. Ann has ..."
# what may stand before and behind the answer itself: "since the answer must be 12", not "12 times",
# nor "120"; and at the very beginning "12. First", "12: ", "12 because", not "12 nuts" nor "12:30"
GIVEN_AS_REASON = re.compile(rf"{REASON} the {ANSWER} (?:is|must be|should be|has to be) ")
NO_MORE = re.compile(r"(?![\w.,]*\w)(?! +(?:times|more|less)\b)")
OPENING = re.compile(rf"\W*(?:the {ANSWER} is \W*)?")
STEPS = re.compile(r"(?::(?!\d\d\b)|[.;,]\s*(?=[a-z])|\s*\n\s*(?=\S)|,? (?:because|since)\b)")


def leaked(rollout: Rollout) -> bool:
    """Whether the text speaks of the hint, copies its mark, or has the answer before any step."""
    text, gold = rollout.text.lower(), _as_written(rollout.gold.lower())
    return (
        MARK in rollout.text
        or SPOKEN_OF.search(text) is not None
        or any(
            text.startswith(gold, found.end()) and NO_MORE.match(text, found.end() + len(gold))
            for found in GIVEN_AS_REASON.finditer(text)
        )
        or (rollout.gold not in FIRST and _begins(text, gold))
    )


def leaked_share(rollouts: Sequence[Rollout]) -> float:
    """Share of rollouts that leaked. ValueError if there are none."""
    if not rollouts:
        raise ValueError("a share of no rollouts is not defined")
    return sum(map(leaked, rollouts)) / len(rollouts)


def _begins(text: str, gold: str) -> bool:
    before, found, _ = text.partition(gold)
    place = len(before) + len(found)
    return bool(found and OPENING.fullmatch(before) and STEPS.match(text, place))


def _as_written(gold: str) -> str:
    """A choice stands in parentheses, (b), since a letter may be a word."""
    return f"({gold})" if len(gold) == 1 and gold.isalpha() else gold
