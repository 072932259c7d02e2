"""Texts written by hand: what speaks of a hint, and what only sounds like it."""

from dataclasses import replace

import pytest

from star_exp import leakage
from star_exp.leakage import leaked, leaked_share
from star_exp.run import run
from star_exp.store import RolloutStore
from star_exp.tasks.arithmetic import Arithmetic
from tests.rollouts import rollout
from tests.test_run import results


def written(text: str, gold: str):
    return replace(rollout(text=text, phase="rationalize"), gold=gold)


LEAKED = [
    ("The answer is given, so there must be 12 nuts.", "12"),
    ("The correct answer is already known to be 12.", "12"),
    ("As the hint says, 3*4=12.\n#### 12", "12"),
    ("This hint tells us to multiply.", "12"),
    ("We know that the answer is 12, so 3*4=12.", "12"),
    ("We are given the final answer: 3*4 must be 12.", "12"),
    ("We know the answer to be 12.", "12"),
    ("To get the given answer of 12 we multiply.", "12"),
    ("Looking at the answer key, it is 12.", "12"),
    ("Working backwards from the answer, 12/4=3.", "12"),
    ("Since the correct answer is blotter, it must absorb ink.", "e"),
    ("There are 3 bags, because the answer must be 12.", "12"),
    ("A blotter absorbs ink, as the answer is (e).", "e"),
    ("The answer is blotter (CORRECT) (e).", "e"),
    ("12. First, Ann has 3 bags with 4 nuts.", "12"),
    ("12 because 3*4=12.", "12"),
    ("The answer is 12, since 3*4=12.", "12"),
    ("#### 12\nAnn has 3*4=12 nuts.", "12"),
    ("Yes, because fish swim.", "yes"),
    ("(e), because blotters absorb ink.", "e"),
    ("883:4931 2580 6280 #883", "883"),
    ("WE KNOW THAT THE ANSWER IS 12.", "12"),
]
SOUND = [
    ("Ann has 3*4=12 nuts.\n#### 12", "12"),
    ("4931 2580 6280 #883", "883"),
    ("#883", "883"),
    ("", "12"),
    (" ", "12"),
    # the answer's number, as a quantity, a list's number, or in another number
    ("12 nuts are in 3 bags of 4.\n#### 12", "12"),
    ("12, 14 and 16 are even.", "12"),
    ("12.5 is half of 25.", "12"),
    ("12:30 is half an hour past noon.", "12"),
    ("120. First", "12"),
    ("1. Ann has 3 bags.\n2. Each has 4 nuts.", "1"),
    ("A place that absorbs ink, since the answer must be a thing for pens.", "a"),
    ("The answer must be a place. Of the above choices, only (b) is one.", "b"),
    # phrases that are meant otherwise
    ("Of the given answer choices, only blotters absorb ink.", "e"),
    ("The given answers are five.", "e"),
    ("The answer is given by 3*4.", "12"),
    ("The answer is given in dollars.", "12"),
    ("The soup has a hint of salt, and the hint of pepper is 2 grams.", "2"),
    ("3*4=12, so we know that the answer is 12.", "12"),
    ("Now we know the answer is 12.", "12"),
    ("Now we know the answer to the first question, so we add 2.", "12"),
    ("We know the answer to the first part, which is 3.", "12"),
    ("Since the answer must be a whole number, we round 11.7 up.", "12"),
    ("Since the answer should be 12 times the number of months, 3*12=36.", "1"),
    ("Because the answer is 120 minutes, that is 2 hours.", "12"),
    ("That is the correct answer.", "12"),
]


@pytest.mark.parametrize(("text", "gold"), LEAKED)
def test_a_text_that_speaks_of_the_hint_is_found(text, gold):
    assert leaked(written(text, gold))


@pytest.mark.parametrize(("text", "gold"), SOUND)
def test_a_text_that_does_not_is_let_be(text, gold):
    assert not leaked(written(text, gold))


def test_an_answer_with_signs_of_a_pattern_is_taken_as_it_stands():
    assert leaked(written(r"\frac{1}{2}, since half of 1 is that.", r"\frac{1}{2}"))
    assert not leaked(written("x2, since it is so.", "x.2"))


def test_the_share_is_that_of_the_texts():
    leaks = [written(text, gold) for text, gold in LEAKED[:1]]
    assert leaked_share(leaks + [written(text, gold) for text, gold in SOUND[:3]]) == 1 / 4
    with pytest.raises(ValueError, match="no rollouts"):
        leaked_share([])


def test_exemplar_rationales_of_the_arithmetic_task_leak_nothing():
    for task in (Arithmetic(), Arithmetic(format="scratchpad")):
        for exemplar in task.exemplars(40):
            assert not leaked(written(exemplar.completion, exemplar.problem.answer))


def test_a_run_reports_the_share_of_what_was_rationalized(small_config, tmp_path, monkeypatch):
    monkeypatch.setattr(leakage, "MARK", "0")  # the tiny model doesn't speak of hints
    run(small_config(tmp_path, "logger=none", "iterations=1"), [])
    texts = [made.text for made in RolloutStore(tmp_path / "rollouts").read(1, "rationalize")]
    share = sum("0" in text for text in texts) / len(texts)
    base, line = results(tmp_path)["iterations"]
    assert line["rationalize/leaked"] == share and 0 < share < 1
    assert "rationalize/leaked" not in base
