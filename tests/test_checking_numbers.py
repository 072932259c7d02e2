"""Numbers as they are written, read by hand and made at random."""

from fractions import Fraction
from random import Random

import pytest

from star_exp.checking.numbers import bare, canonical, last_number, same

READ = {
    # plain
    "5": "5",
    " 5 ": "5",
    "0": "0",
    "007": "7",
    "+3": "3",
    "-5": "-5",
    "\u22125": "-5",
    "-0": "0",
    "72.": "72",
    "1080.00": "1080",
    ".5": "0.5",
    "-.5": "-0.5",
    "0.50": "0.5",
    "0.05": "0.05",
    "100": "100",
    # thousands
    "1,080": "1080",
    "1,080.": "1080",
    "1,234,567.80": "1234567.8",
    "1,08": None,
    "1,0800": None,
    "1080,000": None,
    "0,123": None,
    ",123": None,
    "1,,080": None,
    "1 080": None,
    # money and percent
    "$18": "18",
    "$1,234.50": "1234.5",
    "-$5": "-5",
    "$-5": "-5",
    "\\$5": "5",
    "£3.20": "3.2",
    "€7": "7",
    "7 €": "7",
    "50%": "50",
    "50 %": "50",
    "50\\%": "50",
    "12.5 percent": "12.5",
    # fractions
    "3/4": "0.75",
    "3 / 4": "0.75",
    "6/3": "2",
    "1/3": "1/3",
    "-2/6": "-1/3",
    "1 1/2": "1.5",
    "-1 1/3": "-4/3",
    "½": "0.5",
    "1½": "1.5",
    "2 ⅔": "8/3",
    "-¼": "-0.25",
    "1,000/3": "1000/3",
    "1/0": None,
    "1/2/3": None,
    "3/": None,
    # units
    "18 apples": "18",
    "9 (apples)": "9",
    "5 km": "5",
    "5km": "5",
    "60 km/h": "60",
    "20°C": "20",
    "12 dollars per hour": "12",
    "1/2 cup": "0.5",
    "18 apples.": "18",
    "5 million": None,
    "5 more": None,
    "3 dozen": None,
    "3 dozen eggs": None,
    "2 score": None,
    "5k": None,
    "5K": None,
    "5 km.": "5",
    "5kg": "5",
    "5m": None,
    "5mm": "5",
    "5 mil": None,
    "5 miles": "5",
    "5bn": None,
    "5 squared": None,
    "5 square feet": "5",
    "5 feet squared": "5",
    "2 and a half": None,
    "2 hours and a half": None,
    "2 halves": None,
    "5 minus three": None,
    "5 apples plus three": None,
    "5 times three": None,
    "5 sandwiches": "5",  # not "and"
    "9 (dozens)": "9",
    "2 boxes of 6": None,
    # powers of ten
    "1e3": "1000",
    "2.5E-3": "0.0025",
    "1e99": "1" + "0" * 99,
    "1e100": None,
    "1e999999999": None,
    # not one number
    "": None,
    "two": None,
    "apples 5": None,
    "5-3": None,
    "5 + 3": None,
    "5 =": None,
    "x = 5": None,
    "--5": None,
    "- 5": None,
    "12:30": None,
    "1.2.3": None,
    "2020-01-01": None,
    "(5)": None,
    "nan": None,
    "inf": None,
    "1_000": None,
    "٣": None,
    "5 m^2": None,
    # without end
    "9" * 100: "9" * 100,
    "9" * 101: None,
    "9" * 10_000: None,
    "0." + "0" * 10_000 + "1": None,
    "1/" + "7" * 10_000: None,
}

LAST = {
    "So 5-3 = 2.": "2",
    "5-3": "3",
    "5 - 3": "3",
    "5 -3": "3",
    "x-3": "3",
    "pages 3\u20137": "7",
    "7 - -3": "-3",
    "the answer is -3.": "-3",
    "x=-5": "-5",
    "(-4)": "-4",
    "12\n-3": "-3",
    "it costs $1,234.50.": "1234.5",
    "a loss of -$5, I think": "-5",
    "$5-$3": "3",
    "$-5$": "-5",
    "**18**": "18",
    "#### 18": "18",
    "1,080, then": "1080",
    "50% of them.": "50",
    "She ate 3/4.": "0.75",
    "3 1/2 cups": "3.5",
    "2½ cups.": "2.5",
    "12 / 4 = 3": "3",
    "at 10:30": "30",
    "7, 8, 9": "9",
    "H2O has 7 and CO2": "7",  # names
    "18, not 1,08": "18",  # as `canonical` reads it
    "18 in version 1.2.3": "18",
    "4 or 3/0": "4",
    "5 and " + "9" * 10_000: "5",
    "none": None,
    "": None,
}


@pytest.mark.parametrize(("text", "form"), READ.items(), ids=lambda text: str(text)[:20])
def test_a_text_is_read_as_a_reader_would(text: str, form: str | None):
    assert canonical(text) == form


@pytest.mark.parametrize(("text", "form"), LAST.items(), ids=lambda text: str(text)[-20:])
def test_the_last_number_of_a_text(text: str, form: str | None):
    assert last_number(text) == form


BARE = {
    "7": "7",
    " -7.0 ": "-7",
    "$1,080.00": "1080",
    "7 €": "7",
    "50%": "50",
    "50\\%": "50",
    "3/4": "0.75",
    "1 1/2": "1.5",
    "½": "0.5",
    "0.5": "0.5",
    ".05": "0.05",
    "0": "0",
    "0%": "0",
    "1e3": "1000",
    # names and times
    "007": None,
    "-007": None,
    "$007": None,
    "00": None,
    "10 am": None,
    "2 hours": None,
    "7 apples": None,
    "7km": None,
    "(7)": None,
    "7-8": None,
    "": None,
}


@pytest.mark.parametrize(("text", "form"), BARE.items())
def test_a_bare_number_has_nothing_but_currency_or_percent_beside_it(text: str, form: str | None):
    assert bare(text) == form
    assert form is None or canonical(text) == form


def written(value: int, random: Random) -> str:
    """A whole number in one of the ways it may be written, in front of it and behind it."""
    digits = random.choice(
        [f"{abs(value)}", f"{abs(value):,}", f"{abs(value)}.00", f"00{abs(value)}"]
    )
    front = random.choice(["", "$", "£"])
    back = random.choice(
        ["", "." if "." not in digits else "", "%", " apples", " (km)", "\u00a0km"]
    )
    return ("-" if value < 0 else "") + front + digits + back


def test_whole_numbers_come_back_however_they_are_written():
    random = Random(0)
    for _ in range(2000):
        value = random.randint(-(10 ** random.randint(1, 20)), 10 ** random.randint(1, 20))
        assert canonical(written(value, random)) == str(value)


def test_a_fraction_and_the_decimals_it_makes_are_the_same():
    random = Random(1)
    for _ in range(500):
        places = random.randint(1, 8)
        number = random.randint(0, 10**9)
        whole, decimals = divmod(number, 10**places)
        assert same(f"{whole}.{decimals:0{places}}", f"{number}/{10**places}")
        assert same(f"{whole} {decimals}/{10**places}", f"{number}/{10**places}")


def test_a_canonical_form_is_exact_and_its_own():
    random = Random(2)
    for _ in range(1000):
        top, bottom = random.randint(-(10**6), 10**6), random.randint(1, 10**4)
        form = canonical(f"{top}/{bottom}")
        assert form is not None
        assert Fraction(form) == Fraction(top, bottom)
        assert canonical(form) == form
    small = canonical(f"1/{2**332}")  # 332 decimals: more than are read as digits, but a number
    assert small is not None and canonical(small) == small


def test_the_last_number_is_found_behind_any_text():
    random = Random(3)
    for _ in range(1000):
        value = random.randint(0, 10**6)
        text = f"At first 3, then 1,200: the answer is {written(-value, random)}!"
        assert last_number(text) == str(-value)


def test_no_number_is_not_the_same_as_no_number():
    assert same("5.0", "$5")
    assert not same("5", "6")
    assert not same("two", "two")


def test_any_text_is_read_or_refused():
    random = Random(4)
    for _ in range(5000):
        text = "".join(
            random.choices("0123456789.,/-+eE %$½⅔\u2212()km\\n\n", k=random.randint(0, 15))
        )
        form = canonical(text)
        assert form is None or canonical(form) == form
        last_number(text)
