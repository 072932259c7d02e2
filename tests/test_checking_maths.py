r"""Answers of mathematics: \boxed by hand, equality as one learns it at school."""

import pytest

from star_exp.checking.maths import boxed, equivalent, normal

BOXED = {
    r"so $x = \boxed{5}$.": "5",
    r"\boxed{\frac{1}{2}}": r"\frac{1}{2}",
    r"\boxed{\sqrt{\frac{a}{\sqrt{b}}}} is it": r"\sqrt{\frac{a}{\sqrt{b}}}",
    r"first \boxed{1}, then \boxed{2}": "2",
    r"\boxed{1} or \fbox{2}": "2",
    r"\fbox{\boxed{7}}": "7",
    r"\boxed {5}": "5",
    r"\boxed 5": "5",
    r"$\boxed 12$ apples": "12",
    r"\boxed\frac12 then": r"\frac12",
    r"\boxed{\{1, 2\}}": r"\{1, 2\}",
    r"\boxed{\left\{ x \right.} and": r"\left\{ x \right.",  # one escaped brace
    r"\boxed{\begin{pmatrix} 1 \\ 2 \end{pmatrix}}": r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}",
    r"\boxed{}": "",
    "\\boxed{a\nb}": "a\nb",
    # cut off, or none at all
    r"\boxed{\frac{1}{2}": None,
    r"\boxed{1} and \boxed{2": None,
    r"\boxed": None,
    r"\boxed{": None,
    r"\boxedtext{5}": None,
    "boxed{5}": None,
    "": None,
}

EQUAL = [
    ("5", "5"),
    ("5", "$5$"),
    ("5", r"\boxed{5}"),
    ("5", r"so it is $\boxed{5}$."),
    (r"$\boxed{5}$", r"\(5\)"),
    (r"\frac12", "0.5"),
    (r"\frac{1}{2}", "1/2"),
    (r"\dfrac{1}{2}", r"\tfrac12"),
    (r"\frac{3}{4}", r"\frac{6}{8}"),
    (r"3\frac{1}{2}", "3.5"),
    (r"-\frac{2}{3}", r"\frac{-2}{3}"),
    (r"\frac13", "0.333333"),
    ("1,080", "1080"),
    (r"10{,}080", "10080"),
    (r"11,\!111,\!100", "11111100"),
    ("5", "5.0"),
    ("5", "\u2212(-5)"),
    ("3.50", "3.5"),
    (r"0.1\pi", r"\frac{\pi}{10}"),
    ("x=5", "5"),
    ("5", "x = 5"),
    ("y = 2x + 3", "2x+3"),
    ("x^2 + 2x + 1", "(x+1)^2"),
    (r"2\sqrt{3}", r"\sqrt{12}"),
    (r"\frac{1}{\sqrt{2}}", r"\frac{\sqrt{2}}{2}"),
    (r"\sqrt2", r"\sqrt{2}"),
    (r"\left(3, \frac{\pi}{2}\right)", r"(3,\pi/2)"),
    ("[1, 2)", r"\left[1,2\right)"),
    (r"(-\infty, 2) \cup (3, \infty)", r"(3,\infty)\cup(-\infty,2)"),
    ("x<2", r"(-\infty,2)"),
    (r"\{1, 2, 3\}", r"\{3,1,2\}"),
    ("1, 2", "2,1"),
    ("1, -2", r"1 \text{ and } -2"),
    (r"1 \pm \sqrt{19}", r"1-\sqrt{19}, 1+\sqrt{19}"),
    (r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", r"\begin{bmatrix}1&2\\3&4\end{bmatrix}"),
    (r"\begin{pmatrix} 1/2 \\ 3 \end{pmatrix}", r"\begin{pmatrix}\frac{1}{2}\\3\end{pmatrix}"),
    (r"5 \text{ cm}", "5"),
    ("5", r"5\text{ cm}^2"),
    ("5", "5 square units"),
    (r"5\ \mbox{feet}", "5 feet"),
    (r"\$18.90", "18.90"),
    (r"90^\circ", "90"),
    (r"90^{\circ}", "90 degrees"),
    (r"50\%", "50"),
    ("50", r"50\%"),
    (r"\text{Evelyn}", "Evelyn"),
    (r"\text{even}", r"\textbf{Even}"),
    (r"\text{(C)}", "C"),
    ("B", r"\text{B}"),
    (r"\text{June 20}", r"June\ 20"),
    ("3+4i", "4i + 3"),
    ("2516_8", "2516_{8}"),
    ("2516_{10}", "2516"),
    ("x=5", "x = 2+3 = 5"),
    ("5", "x=2+3=5"),
    ("5", "2+3=5"),
    ("2x+3", "y=2x+3"),
    (r"\frac{1}{2}", r"\sin x = \frac{2}{4} = 0.5"),
    ("x=1, y=2", "x=1, y=2"),
    ("5 days", "5"),
    ("5", "5 days"),
    (r"5\text{ cm}", "5 centimeters"),
    (r"5\text{ in}", "5 inches"),  # whatever isn't known
    (r"55\text{ miles per hour}", "55 mph"),
    (r"5\text{ square feet}", r"5\text{ ft}^2"),
    (r"x \in [1,2]", "[1,2]"),
    (r"\frac{\pi}{3}", r"\pi/3"),
    ("2^{10}", "1024"),
    ("abc", "cab"),
]

UNEQUAL = [
    ("5", ""),
    ("", ""),
    ("", "5"),
    ("5", "$$"),
    ("5", r"\boxed{}"),
    ("5", "6"),
    ("5", "-5"),
    ("5", "50"),
    ("5", "5x"),
    ("5", "5d"),  # no unit
    ("5", "5,6"),
    ("5", "x"),
    ("5", r"\text{five}"),
    ("5", r"\frac{5}{"),
    ("5", "the answer is 6"),
    ("1080", "1,081"),
    (r"\frac12", "0.6"),
    (r"\frac12", "2/1"),
    (r"\frac13", "0.33"),
    ("0.0000001", "0.0000002"),
    (r"\frac{1}{2^{98}}", r"\frac{2}{2^{98}}"),
    ("1 1/2", "11/2"),
    (r"3\frac{1}{2}", r"\frac{3}{2}"),
    ("x=5", "x=6"),
    ("x=5", "y=5"),
    ("y = 2x + 3", "y = 2x - 3"),
    ("x^2 + 2x + 1", "x^2 + 1"),
    (r"\sqrt{2}", "2"),
    (r"\sqrt{2}", "1.41"),
    (r"\left(3, \frac{\pi}{2}\right)", r"\left(\frac{\pi}{2}, 3\right)"),
    ("(1,2)", "(2,1)"),
    ("(1,2)", "[1,2]"),
    ("(1,2)", "(1,2]"),
    ("[1,2)", "[1,3)"),
    ("(1,2,3)", "(1,2)"),
    ("x<2", r"x \le 2"),
    ("x<2", "x>2"),
    (r"\{1, 2, 3\}", r"\{1, 2\}"),
    (r"\{1, 2\}", r"\{1, 3\}"),
    ("1, 2", "1"),
    (r"1 \pm \sqrt{19}", r"1+\sqrt{19}"),
    (r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", r"\begin{pmatrix}1&2\\4&3\end{pmatrix}"),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix} 1 & 2 \end{pmatrix}"),
    (r"\text{Evelyn}", "Briana"),
    (r"\text{Evelyn}", "nyleve"),
    (r"\text{Evelyn}", "E"),
    (r"\text{(C)}", "(B)"),
    (r"\text{even}", "odd"),
    (r"\text{even}", "not even"),
    (r"10 \text{ a.m.}", r"10 \text{ p.m.}"),
    ("3+4i", "3-4i"),
    ("2516_8", "2516_7"),
    ("2516_8", "2517_8"),
    ("2516_8", "2516"),
    ("12", "12_8"),
    ("12", "12_{8}"),
    ("5", "4=5"),
    ("5", "x=4=5"),
    ("x=5", "x=4=5"),
    ("x=5", "4=5"),
    ("3 days", "3 weeks"),
    (r"3\text{ days}", "3 weeks"),
    (r"5\text{ cm}", r"5\text{ inches}"),
    (r"50\%", "5"),
    (r"90^\circ", "45"),
    (r"\frac{\pi}{3}", "60.5"),
    ("2^{10}", "210"),
    ("abc", "abd"),
    ("A", "B"),
]


@pytest.mark.parametrize(("text", "inner"), BOXED.items())
def test_the_last_box_counts_if_it_closes(text: str, inner: str | None):
    assert boxed(text) == inner


@pytest.mark.parametrize(("gold", "answer"), EQUAL)
def test_the_same_answer_written_otherwise_is_right(gold: str, answer: str):
    assert equivalent(gold, answer)


@pytest.mark.parametrize(("gold", "answer"), UNEQUAL)
def test_another_answer_is_wrong(gold: str, answer: str):
    assert not equivalent(gold, answer)


@pytest.mark.parametrize("gold", sorted({gold for gold, _ in EQUAL + UNEQUAL} - {""}))
def test_every_answer_is_itself_and_never_nothing(gold: str):
    assert equivalent(gold, gold)
    assert not equivalent(gold, "")


def test_an_answer_may_be_an_interval_where_the_gold_is_an_inequality_but_not_the_other_way_round():
    assert equivalent("x<2", r"(-\infty,2)")
    assert not equivalent(r"(-\infty,2)", "x<2")


NORMAL = [
    ("0.5", r"\frac12", r"\dfrac{1}{2}", "$1/2$", ".50", r"\( \tfrac{1}{2} \)"),
    ("-2", r"-\frac{4}{2}", "\u22122", "-2.0"),
    ("1/3", r"\frac{2}{6}", "1/3"),
    ("1080", "1,080", r"1{,}080", "1080."),
    (r"(3,\frac{\pi}{2})", r"\left(3, \dfrac{\pi}{2}\right)", r"( 3,\frac{\pi}{2} )"),
    ("x=5", "x = 5", "$x=5$"),
    ("1,2", "1, 2", "1 ,2"),
    ("1, 200",),  # two numbers
    (r"\text{June 20}", r"\mbox{June 20}"),
    (r"\begin{pmatrix} 1 \\ (2) \end{pmatrix}",),
    ("",),
    ("", "$$", r"\boxed{}"),
]


@pytest.mark.parametrize("same", NORMAL, ids=lambda same: same[0])
def test_a_normal_form_is_that_of_many_ways_to_write_an_answer(same: tuple[str, ...]):
    assert {normal(text) for text in same} == {same[0]}


@pytest.mark.parametrize(("gold", "answer"), EQUAL)
def test_the_normal_form_of_an_answer_is_as_right_as_the_answer(gold: str, answer: str):
    assert equivalent(gold, normal(answer))
    assert normal(normal(answer)) == normal(answer)


@pytest.mark.parametrize(("gold", "answer"), UNEQUAL)
def test_the_normal_form_of_a_wrong_answer_is_wrong(gold: str, answer: str):
    assert not equivalent(gold, normal(answer))
    assert normal(gold) != normal(answer) or not normal(gold)
