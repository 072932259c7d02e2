r"""Answers of mathematics: what stands in \boxed{...}, and whether two of them are the same.

    boxed(r"so $x = \boxed{\frac{1}{2}}$.") == r"\frac{1}{2}"
    equivalent(r"\frac12", "0.5")      equivalent("x=5", "5")      not equivalent("(1,2)", "[1,2]")
    normal(r"$\dfrac12$") == "0.5"

Cheap cases are decided on the text, the others by math-verify (sympy). Sympy may take for ever or
all memory on what a model writes: call `equivalent` through checking/workers.py.
"""

import logging
import re

from latex2sympy2_extended import NormalizationConfig
from math_verify import LatexExtractionConfig, parse, verify

from star_exp.checking.numbers import canonical

# math-verify warns, once, that its own timeout is off; ours kills the process.
logging.getLogger("math_verify").setLevel(logging.ERROR)

# Its units are dropped here instead: it takes the d of "5d" for days.
_LATEX = LatexExtractionConfig(
    normalization_config=NormalizationConfig(
        basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none"
    )
)

_BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])\s*")
_TIDY = (
    (r"\\text(?:bf|it|rm|normal)|\\math(?:rm|bf|it)|\\mbox", r"\\text"),
    (r"(?<!\\)\\[!,;:>]|\\(?:left|right)(?![A-Za-z])\.?", ""),
    (r"(?<!\\)\\(?: |q?quad(?![A-Za-z]))|~|\s", " "),
    (r"\\[dtc]frac", r"\\frac"),
    (r"\{,\}", ","),
    (r"\\[()\[\]]|\\?[$%]", ""),  # \( \) \[ \] $ and, as in word problems, the percent sign
    (r"\^\s*(?:\\circ|\{\s*\\circ\s*\}|\\degree)|°", ""),
    ("\u2212", "-"),
    (r"[.,;\s]+$|^\s+", ""),
)
_NAMES = {  # of the same unit, the first for all
    name: names[0]
    for names in (
        *(("degree", "degrees"), ("dollar", "dollars"), ("cent", "cents"), ("percent",)),
        *(("inch", "inches"), ("foot", "feet", "ft"), ("yard", "yards"), ("mile", "miles")),
        *(("mph", "miles per hour"), ("mm", "millimeter", "millimeters")),
        *(("cm", "centimeter", "centimeters"), ("m", "meter", "meters")),
        *(("km", "kilometer", "kilometers"), ("pound", "pounds")),
        *(("g", "gram", "grams"), ("kg", "kilogram", "kilograms")),
        *(("second", "seconds"), ("minute", "minutes"), ("hour", "hours"), ("day", "days")),
        *(("week", "weeks"), ("month", "months"), ("year", "years")),
    )
    for name in names
}
_UNITS = rf"(?:square |cubic |sq\.? )?(?:units?|{'|'.join(sorted(_NAMES, key=len, reverse=True))})"
# 5\text{ cm}^2 and 5 cm^2 are 5, but 10\text{ a.m.} isn't 10, nor "5m" 5.
_UNIT = re.compile(
    rf"(?<=[\w)}}])\s*(?:\\text\s*\{{(?!\s*[ap]\.?m\b)[^{{}}]*\}}|(?<=[\d)}}])\s+{_UNITS})"
    r"\s*(?:\^\s*\{?\d\}?)?$"
)
_WORDS = re.compile(r"\\text\s*\{([^{}]*[A-Za-z][^{}]*)\}")
_LETTER = re.compile(r"(?<![\\A-Za-z])[A-Za-z]")  # of a variable, not of a command
_NUMERAL = re.compile(r"[-+]?[\d.,/ ]+")
_BASE = re.compile(r"\d_\s*\{?(\d+)\}?$")
_FRACTION = re.compile(r"^(-?)\\frac\s*(?:\{(\d+)\}|(\d))\s*(?:\{(\d+)\}|(\d))$")


def boxed(text: str) -> str | None:
    r"""What the last \boxed{...} or \fbox{...} of `text` holds, or the word after \boxed.

    None without one, or if its braces don't close: a text that was cut off has no answer.
    """
    opening = max(_BOX.finditer(text), key=re.Match.start, default=None)
    if opening is None:
        return None
    start = opening.end()
    if not text.startswith("{", start):
        word = re.compile(r"[^\s$]+").match(text, start)
        return word and word[0]
    depth = 0
    for brace in re.compile(r"\\.|[{}]", re.DOTALL).finditer(text, start):  # not \{ and \}
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return text[start + 1 : brace.start()]
    return None


def equivalent(gold: str, answer: str) -> bool:
    r"""Whether `answer` means the same as `gold`, each LaTeX with or without $ and \boxed.

    Not symmetric, like math-verify: the interval may answer "x<2", but not the other way round.
    Percent and degree signs are dropped; units are compared where both have a known one; a decimal
    agrees with what isn't one to six places. In an answer like "x=2+3=5" all sides without letters
    must be the gold one.
    """
    units = _unit(gold), _unit(answer)
    gold, answer = _tidy(gold), _tidy(answer)
    if not gold or not answer or (all(units) and units[0] != units[1]):
        return False
    if _bare(gold) == _bare(answer):
        return True
    if _WORDS.fullmatch(gold):
        return _words(gold) == _words(answer)
    if _NUMERAL.fullmatch(gold) and _NUMERAL.fullmatch(answer):
        a, b = canonical(gold), canonical(answer)
        if a and b and not {".", "/"} <= {*a, *b}:  # 1/3 and 0.333333: sympy, to six places
            return a == b
    bases = [_BASE.findall(text) or ["10"] for text in (gold, answer)]
    if bases[0] != bases[1] or not _chained(gold, answer):  # sympy reads 12_8 as 12, 4=5 as 5
        return False
    # 15 digits, the default, don't tell 2**-98 from 2**-97.
    return verify(_parsed(gold), _parsed(answer), numeric_precision=50, timeout_seconds=None)


def normal(text: str) -> str:
    r"""The same answer, written as others write it; "" for nothing. Cheap: no sympy.

    Answers of one normal form are equivalent, but not the other way round: x+y and y+x.
    """
    plain = " ".join(_plain(text).split())
    number = _FRACTION.sub(r"\1\2\3/\4\5", plain)
    form = canonical(number) if _NUMERAL.fullmatch(number) else None
    if form is not None or r"\\" in plain:  # lines of a matrix
        return form or plain
    joined = re.sub(r"\s*([^\w\s,])\s*", r"\1", plain)
    return re.sub(r"\s*,\s*(?!\d{3}(?!\d))", ",", joined)  # "1, 200" is not 1,200


def _chained(gold: str, answer: str) -> bool:
    """Whether no side of an equation contradicts the gold answer, which is none: 4=5, not x=5."""
    sides = re.split(r"(?<![<>!:])=", answer)
    if len(sides) <= gold.count("=") + 1 or "," in answer or r"\text" in answer:
        return True
    value = gold.rpartition("=")[2]
    numeric = (side for side in sides if re.search(r"\d", side) and not _LETTER.search(side))
    return all(equivalent(value, side) for side in numeric)


def _unit(text: str) -> str | None:
    """The unit that an answer ends with, by one name for all of its names; None for others."""
    found = _UNIT.search(_plain(text))
    words = re.findall(r"[a-z]+", found[0].replace(r"\text", "").lower()) if found else []
    return _NAMES.get(" ".join(word for word in words if word not in ("square", "cubic", "sq")))


def _tidy(text: str) -> str:
    """The same mathematics on one line, without what only looks, and without its unit."""
    return _UNIT.sub("", _plain(text)).strip()


def _plain(text: str) -> str:
    inner = boxed(text)
    text = text if inner is None else inner
    for pattern, plain in _TIDY:
        text = re.sub(pattern, plain, text)
    return text.strip()


def _bare(text: str) -> str:
    """For comparison as text: no spaces, but between digits; no \\text."""
    text = re.sub(r"\\text\s*\{([^{}]*)\}", r"\1", text)
    return re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", text)


def _words(text: str) -> str:
    """Only words, in lower case: "(C)" is "c"."""
    return " ".join(re.findall(r"\w+", text.replace(r"\text", " ").casefold()))


def _parsed(text: str) -> list:
    return parse(f"${text}$", [_LATEX], parsing_timeout=0)
