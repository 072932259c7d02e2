"""Numbers as people and models write them, read exactly.

    canonical("$1,080.00") == "1080"         canonical("1 1/2") == canonical("1.50") == "1.5"
    canonical("18 apples") == "18"           canonical("2/6") == "1/3"
    canonical("50%") == "50"                 last_number("So 5-3 = 2.") == "2"
    bare("$1,080.00") == "1080"              bare("18 apples") is None

A canonical form is a decimal where the decimals end, else a reduced fraction.
"""

import re
import unicodedata
from fractions import Fraction

LONGEST = 1000  # characters of a text that may be one number: a model may write digits without end
LARGEST = 10**100  # a numerator or denominator that reaches it is no answer

_VULGAR = "[¼-¾⅐-⅞]"
_CURRENCY = r"(?:\\?[$£€] ?)"
_INTEGER = r"(?:[1-9][0-9]{0,2}(?:,[0-9]{3})+|[0-9]+)"  # "1,08" is not one
_DECIMAL = rf"(?:{_INTEGER}(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]{{1,2}})?"
_FRACTION = rf"(?:{_INTEGER} +)?{_INTEGER} ?/ ?{_INTEGER}"
# "%", "km/h", "(apples)", "dollars per hour"; no second number and no arithmetic. "5 million", "3
# dozen", "5k" and "2 and a half" are not 5, 3, 5 and 2 of something.
_NO_UNIT = (
    r"(?:(?:hundred|thousand|[mbtr]+illion|dozen|score|half|third|time)s?|halves"
    r"|k|mil|mln|mio|m|bn|b|more|less|fewer|squared|cubed|over|to|or|x)"
)
_UNIT = (
    rf"\s*(?!{_NO_UNIT}\b)(?!.*\b(?:and|plus|minus)\b)(?:[^\W\d_]|[(°]|\\?%|{_CURRENCY})"
    r"[^0-9=+*<>^\\]*"
)
_NUMBER = rf"(?P<sign>[-+]?{_CURRENCY}?|{_CURRENCY}[-+])(?P<number>{_FRACTION}|{_DECIMAL})"
_WRITTEN = re.compile(rf"{_NUMBER}(?:{_UNIT})?", re.IGNORECASE)
# 007 is a name, 0.7 a number.
_BARE = re.compile(rf"(?![^0-9.]*0[0-9]){_NUMBER}(?: ?\\?[%$£€])?", re.IGNORECASE)
# What may be a number within a text, with all that is joined to it, so that "1.2.3" and "1,08" are
# seen whole and refused. In "5-3", "5 -3" and "x-3" the hyphen is no sign; in "A4" 4 is no number.
_RUN = re.compile(
    rf"(?:(?<![\w)%])(?<![\d)%] )[-+])?(?:{_CURRENCY}[-+]?)?(?<![\w.])"
    rf"(?:{_INTEGER} +(?=[0-9]+/[0-9]))?\.?[0-9]+(?:[.,][0-9]+| ?/ ?[0-9]+)*"
    r"(?:[eE][-+]?[0-9]{1,2}(?![0-9]))?"
)


def canonical(text: str) -> str | None:
    """The canonical form of the one number in `text`; None if it isn't one number.

    Thousands are separated by commas, three digits each. Currency, percent signs and what is
    counted are dropped: 50% is 50, as answers of word problems are given.
    """
    return _read(_WRITTEN, text)


def bare(text: str) -> str | None:
    """The same, where nothing but currency or a percent sign stands beside the number."""
    return _read(_BARE, text)


def same(a: str, b: str) -> bool:
    """Whether both are one number, and the same."""
    form = canonical(a)
    return form is not None and form == canonical(b)


def last_number(text: str) -> str | None:
    """The canonical form of the last number in `text`, read as `canonical` reads; None if none."""
    runs = [match[0] for match in _RUN.finditer(_plain(text))]
    return next((form for form in map(canonical, reversed(runs)) if form is not None), None)


def _read(pattern: re.Pattern[str], text: str) -> str | None:
    if len(text) > LONGEST:
        return None
    match = pattern.fullmatch(_plain(text))
    if match is None:
        return None
    parts = re.sub(" ?/ ?", "/", match["number"].replace(",", "")).split()
    try:
        value = sum(map(Fraction, parts), Fraction(0))
    except ZeroDivisionError:
        return None
    return _form(-value if "-" in match["sign"] else value)


def _plain(text: str) -> str:
    """ASCII signs and fractions: "1½" becomes "1 1/2"."""
    text = re.sub(f"(?<=[0-9])(?={_VULGAR})", " ", text.replace("\u2212", "-"))
    text = re.sub(_VULGAR, lambda match: unicodedata.normalize("NFKC", match[0]), text)
    return text.replace("\u2044", "/").strip()  # NFKC's slash


def _form(value: Fraction) -> str | None:
    top, bottom = value.as_integer_ratio()
    if max(abs(top), bottom) >= LARGEST:
        return None
    if pow(10, 333, bottom):  # 2**333 > LARGEST: more decimals than that never end
        return f"{top}/{bottom}"
    places = next(places for places in range(334) if 10**places % bottom == 0)
    digits = str(abs(top) * 10**places // bottom).rjust(places + 1, "0")
    whole, decimals = digits[: len(digits) - places], digits[len(digits) - places :]
    return "-" * (top < 0) + whole + ("." + decimals if decimals else "")
