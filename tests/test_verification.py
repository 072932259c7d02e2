"""What a verifier learns from: which solutions, in which pairs and steps, against hand counts."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import Tensor

from star_exp.clock import Clock
from star_exp.data.encode import Example, pack
from star_exp.data.verification import (
    REFERENCE,
    Pairs,
    Singles,
    Solution,
    VerifierData,
    VerifierSteps,
)
from star_exp.errors import UserError
from star_exp.modules.base import LanguageModel
from star_exp.modules.loss import owned
from star_exp.prompts import Prompts
from star_exp.records import Rollout
from star_exp.sampling.base import Policy
from star_exp.scores import ScoreStore, key
from star_exp.store import RolloutStore
from star_exp.tasks.arithmetic import Arithmetic
from tests.rollouts import right, wrong
from tests.test_packing import examples_of


@pytest.fixture
def store(tmp_path) -> RolloutStore:
    """The generator's rollouts."""
    return RolloutStore(tmp_path / "run" / "rollouts")


def write(store: RolloutStore, iteration: int, phase: str, *rollouts: Rollout) -> None:
    """The rollouts as those of an iteration and phase, numbered within their problems."""
    numbers: Counter[str] = Counter()
    numbered = []
    for rollout in rollouts:
        number = numbers[rollout.problem]
        numbers[rollout.problem] += 1
        numbered.append(replace(rollout, iteration=iteration, phase=phase, sample=number))
    store.write(iteration, phase, 0, numbered)


def data(store: RolloutStore, **settings) -> VerifierData:
    generator, own = store.root.parent, store.root.parent / "verifier"
    return VerifierData(
        task=Arithmetic(train_size=100, dev_size=10, test_size=10, ood_size=10),
        store=RolloutStore(own / "rollouts"),
        clock=Clock(own / "clock"),
        seed=0,
        generator=generator,
        scores=ScoreStore(own / "scores"),
        prompts=Prompts(),
        **{"groups": Pairs(None), "batch_size": 4, "iteration": 3, **settings},
    )


def said(found: dict[str, list[Rollout]]) -> dict[str, list[tuple[str, bool]]]:
    """{problem: its texts, sorted, and whether they are right}"""
    return {name: sorted((r.text, r.correct) for r in mine) for name, mine in found.items()}


def two_rounds(store: RolloutStore) -> None:
    write(store, 1, "solutions", right("a", "human"), right("b", "human"))
    write(store, 2, "generate", wrong("a", "one"), right("a", "two"), wrong("b", "three"))
    write(store, 3, "generate", wrong("a", "four"), wrong("c", "five"))


# D_VER


def test_all_rounds_are_labelled_and_solutions_are_right_ones(store):
    two_rounds(store)
    assert said(data(store).labelled) == {
        "a": [("four", False), ("human", True), ("one", False), ("two", True)],
        "b": [("human", True), ("three", False)],
        "c": [("five", False)],
    }


def test_a_problem_that_no_sample_solved_gives_pairs_by_its_solution(store):
    two_rounds(store)
    drawn = data(store).drawn
    assert {(good.text, bad.text) for good, bad in drawn if good.problem == "b"} == {
        ("human", "three")
    }


@pytest.mark.parametrize(
    ("rounds", "texts"),
    [
        (1, {"human", "one", "two", "three"}),
        (2, {"human", "one", "two", "three", "four", "five"}),
        (None, {"human", "one", "two", "three", "four", "five"}),
    ],
)
def test_rounds_are_counted_where_samples_are_and_solutions_are_in_any(store, rounds, texts):
    two_rounds(store)
    found = data(store, rounds=rounds).labelled
    assert {rollout.text for mine in found.values() for rollout in mine} == texts


def test_solutions_that_made_g_sft_count_where_the_generator_knew_of_none(store):
    write(store, 1, "generate", wrong("a", "one"), right("a", "same"))
    found = data(store)
    write(found.made, 1, "solutions", right("a", "human"), right("a", "same"), right("b", "human"))
    assert found.made.root == found.store.root.parent / "sft" / "rollouts"
    assert said(found.labelled) == {
        "a": [("human", True), ("one", False), ("same", True)],
        "b": [("human", True)],
    }
    assert said(data(store, phases=["generate"]).labelled) == {
        "a": [("one", False), ("same", True)]
    }


def test_rounds_that_begin_with_the_base_model_are_counted_from_the_first_iteration(store):
    write(store, 1, "solutions", right("a", "human"))
    write(store, 1, "generate", wrong("a", "one"))
    write(store, 2, "generate", wrong("a", "two"))
    texts = [rollout.text for rollout in data(store, rounds=1).labelled["a"]]
    assert sorted(texts) == ["human", "one"]


def test_each_text_of_a_problem_counts_once_whoever_wrote_it(store):
    write(store, 1, "solutions", right("a", "same"))
    write(store, 2, "generate", right("a", "same"), wrong("a", "x"), wrong("a", "x"))
    write(store, 3, "generate", wrong("a", "x"), right("b", "same"), wrong("b", "x"))
    found = data(store)
    assert said(found.labelled) == {
        "a": [("same", True), ("x", False)],
        "b": [("same", True), ("x", False)],
    }
    first = {rollout.text: rollout for rollout in found.labelled["a"]}
    assert key(first["same"]) == (1, "solutions", "a", 0)
    assert key(first["x"]) == (2, "generate", "a", 1)
    assert len(found.drawn) == 2


def test_what_could_not_be_checked_is_neither_right_nor_wrong(store):
    failed = replace(wrong("a", "unchecked"), failed="TimeoutError")
    write(store, 2, "generate", right("a", "yes"), failed, wrong("a", "no"))
    assert said(data(store).labelled) == {"a": [("no", False), ("yes", True)]}


def test_a_text_that_hides_a_failed_check_of_the_same_text_stays(store):
    failed = replace(wrong("a", "yes"), failed="TimeoutError")
    write(store, 2, "generate", failed, right("a", "yes"))
    assert said(data(store).labelled) == {"a": [("yes", True)]}


def test_hinted_and_greedy_rollouts_and_candidates_are_no_part_unless_asked_for(store):
    write(store, 1, "generate", right("a", "mine"))
    for phase in ("rationalize", "dev", "dev-candidates", "answers"):
        write(store, 1, phase, wrong("a", f"of {phase}"))
    assert said(data(store).labelled) == {"a": [("mine", True)]}
    more = data(store, phases=["generate", "rationalize"])
    assert said(more.labelled) == {"a": [("mine", True), ("of rationalize", False)]}


def test_a_cut_off_text_is_a_wrong_one_and_gets_no_end(store, policy):
    whole = right("train/0", "#8", question="2+6")
    cut = wrong("train/0", "281 #", question="2+6", answer=None, truncated=True)
    write(store, 2, "generate", whole, cut)
    found = data(store)
    ((good, bad),) = found.drawn
    prompt = policy.encode("2+6=")
    assert found.example(policy, bad).tokens == (*prompt, *bad.tokens)
    assert found.example(policy, bad).trained == (False,) * len(prompt) + (True,) * 5
    assert found.example(policy, good).tokens == (*prompt, *good.tokens, 1)
    assert found.example(policy, good).trained == (False,) * len(prompt) + (True,) * 3


def test_a_hinted_solution_is_read_without_its_hint(store, policy):
    hinted = right("train/0", "#8", question="2+6", phase="rationalize", prompt_tokens=99)
    tokens = data(store).example(policy, hinted).tokens
    assert tokens[: -len(hinted.tokens) - 1] == policy.encode("2+6=")


def test_the_order_of_d_ver_is_the_same_each_time(store):
    two_rounds(store)
    orders = [[[key(r) for r in mine] for mine in data(store).labelled.values()] for _ in "ab"]
    assert orders[0] == orders[1]


def test_a_run_that_sampled_nothing_is_an_error_that_says_what_to_do(store):
    write(store, 1, "dev", right("dev/0"))
    with pytest.raises(UserError, match=r"holds no rollouts of solutions or generate .*from="):
        _ = data(store).labelled


def test_without_a_right_and_a_wrong_one_of_a_problem_there_is_nothing_to_learn(store):
    write(store, 2, "generate", right("a", "1"), right("a", "2"), wrong("b", "3"))
    with pytest.raises(UserError, match="no problem has a right and a wrong solution"):
        _ = data(store).drawn


def test_candidates_are_those_of_the_generators_last_model_or_drawn_here(store):
    write(store, 2, "dev-candidates", right("dev/0", "old"))
    found = data(store)
    assert found.candidates("dev") == []
    write(store, 3, "dev-candidates", right("dev/0", "new"))
    assert [rollout.text for rollout in found.candidates("dev")] == ["new"]
    write(found.store, 3, "dev-candidates", right("dev/0", "own"))
    assert [rollout.text for rollout in data(store).candidates("dev")] == ["own"]
    assert found.candidates("test") == []


# Groups


def solutions(good: int, bad: int, problem: str = "a") -> list[Rollout]:
    """So many right and wrong ones, mixed; the problem's name is its question."""
    of = {"problem": problem, "question": problem}
    mixed = [right(text=f"r{number}", sample=2 * number, **of) for number in range(good)]
    mixed += [wrong(text=f"w{number}", sample=2 * number + 1, **of) for number in range(bad)]
    return sorted(mixed, key=lambda rollout: rollout.sample)


COUNTS = [(3, 4, 5), (3, 4, 12), (3, 4, 13), (3, 4, None), (1, 1, 8), (0, 5, 8), (5, 0, 8)]


@pytest.mark.parametrize(("good", "bad", "most"), [*COUNTS, (1, 9, 8), (40, 30, 1)])
def test_pairs_are_distinct_and_at_most_so_many_of_the_product(good, bad, most):
    of = solutions(good, bad)
    pool = {(f"r{r}", f"w{w}") for r, w in product(range(good), range(bad))}
    drawn = Pairs(most)(of, 0)
    texts = {(first.text, second.text) for first, second in drawn}
    assert len(drawn) == len(texts) == (len(pool) if most is None else min(most, len(pool)))
    assert texts <= pool
    assert all(first.correct and not second.correct for first, second in drawn)
    assert all(any(each is rollout for rollout in of) for pair in drawn for each in pair)


def test_every_pair_of_the_product_is_as_likely():
    of, counts = solutions(2, 3), Counter()
    for seed in range(3_000):
        counts.update((a.text, b.text) for a, b in Pairs(2)(of, seed))
    assert len(counts) == 6
    for count in counts.values():  # 3,000 * 2 / 6, and six standard deviations
        assert abs(count - 1_000) < 6 * (3_000 * (1 / 3) * (2 / 3)) ** 0.5


def test_pairs_depend_on_the_seed_alone():
    of = solutions(9, 9)
    assert Pairs(4)(of, 1) == Pairs(4)(of, 1) != Pairs(4)(of, 2)


def test_pairs_are_never_of_two_problems_and_no_problem_has_more_than_the_cap(store):
    """Of 16 samples, 8 right ones give 64 pairs, and 15 give 15: the cap makes them equal."""
    write(
        store,
        2,
        "generate",
        *(*solutions(8, 8, "half"), *solutions(15, 1, "easy"), *solutions(1, 2, "hard")),
    )
    for most, expected in ((None, (64, 15, 2)), (8, (8, 8, 2))):
        drawn = data(store, groups=Pairs(most)).drawn
        assert all(good.problem == bad.problem for good, bad in drawn)
        counts = Counter(good.problem for good, _ in drawn)
        assert tuple(counts[name] for name in ("half", "easy", "hard")) == expected


@pytest.mark.parametrize(
    ("good", "bad", "most", "expected"),
    [
        (20, 20, 16, (8, 8)),
        (3, 20, 16, (3, 13)),
        (20, 3, 16, (13, 3)),
        (0, 20, 16, (0, 16)),
        (20, 0, 16, (16, 0)),
        (3, 4, 16, (3, 4)),
        (8, 8, 16, (8, 8)),
        (9, 9, 5, (2, 3)),
        (3, 4, None, (3, 4)),
        (0, 0, 16, (0, 0)),
    ],
)
def test_singles_are_half_right_where_there_are_as_many(good, bad, most, expected):
    drawn = Singles(most)(solutions(good, bad), 0)
    assert all(len(group) == 1 for group in drawn)
    texts = [rollout.text for (rollout,) in drawn]
    assert len({*texts}) == len(texts)
    assert (sum(t[0] == "r" for t in texts), sum(t[0] == "w" for t in texts)) == expected


def test_which_singles_are_taken_is_drawn_by_seed():
    of = solutions(20, 20)
    assert Singles(4)(of, 1) == Singles(4)(of, 1) != Singles(4)(of, 2)


@pytest.mark.parametrize("groups", [Pairs, Singles])
@pytest.mark.parametrize("most", [0, -1])
def test_a_cap_of_nothing_is_refused(groups, most):
    with pytest.raises(UserError, match=rf"most={most}: expected 1 or more, or null"):
        groups(most)


# Steps

LENGTHS = [9, 3, 17, 9, 12, 6, 4, 5, 11, 7]


def solved(examples: Sequence[Example], known: bool = True) -> list[Solution]:
    """By turns right and wrong; the reference of the i-th is -i."""
    return [
        Solution(example, float(index % 2 == 0), -float(index) if known else None)
        for index, example in enumerate(examples)
    ]


def of_pairs(found: Sequence[Solution]) -> list[tuple[Solution, ...]]:
    return [*zip(found[::2], found[1::2], strict=True)]


EXAMPLES = examples_of(LENGTHS)
PAIRS = of_pairs(solved(EXAMPLES))  # five
TOKENS = [sum(example.trained) for example in EXAMPLES]


def same(batch: dict, expected: dict) -> bool:
    return batch.keys() >= expected.keys() and all(
        torch.equal(batch[name], part) for name, part in expected.items()
    )


def test_a_step_holds_the_right_ones_and_then_in_the_same_order_the_wrong_ones():
    batch = VerifierSteps([PAIRS[:3], PAIRS[3:]], rank=0, world=1)[0]
    order = [0, 2, 4, 1, 3, 5]
    assert same(batch, owned(pack, [EXAMPLES[index] for index in order]))
    assert batch["right"].tolist() == [1, 1, 1, 0, 0, 0]
    assert batch["reference"].tolist() == [-index for index in order]
    assert batch["share"].item() == 3
    assert batch["tokens"].item() == sum(TOKENS[:6])


def test_singles_stand_in_a_step_as_they_come():
    singles = [(each,) for each in solved(EXAMPLES)]
    steps = VerifierSteps([singles[:4], singles[4:]], rank=0, world=1)
    assert len(steps) == 2
    assert steps[1]["right"].tolist() == [1, 0, 1, 0, 1, 0]
    assert same(steps[1], owned(pack, EXAMPLES[4:]))
    assert steps[1]["share"].item() == 6 and steps[1]["tokens"].item() == sum(TOKENS[4:])


def test_the_parts_of_ranks_add_up_to_the_whole():
    whole = VerifierSteps([PAIRS], rank=0, world=1)[0]
    parts = [VerifierSteps([PAIRS], rank=rank, world=2)[0] for rank in (0, 1)]
    for name in ("share", "tokens"):
        assert sum(part[name].item() for part in parts) == whole[name].item()
        assert len({part[name].item() for part in parts}) == 1  # of the whole, for each alike
    references = [part["reference"].chunk(2) for part in parts]
    pairs = {pair for part in references for pair in zip(*map(Tensor.tolist, part), strict=True)}
    assert pairs == {(-0.0, -1.0), (-2.0, -3.0), (-4.0, -5.0), (-6.0, -7.0), (-8.0, -9.0)}
    assert sum(len(part["right"]) for part in parts) == 10
    read = [Counter(part["input_ids"].flatten().tolist()) for part in (*parts, whole)]
    assert read[0] + read[1] == read[2]


def test_without_all_references_a_step_has_none():
    some = [(PAIRS[0][0], replace(PAIRS[0][1], reference=None))]
    assert "reference" not in VerifierSteps([some], 0, 1)[0]


# The steps of an iteration


@pytest.fixture
def module(policy) -> LanguageModel:
    def base() -> Policy:
        return policy

    return LanguageModel(base, learning_rate=1e-3, rate=lambda step, steps: 1.0)


def full(store: RolloutStore, **settings) -> VerifierData:
    """Ten problems with two right and two wrong ones: 40 solutions, 40 pairs."""
    write(
        store,
        2,
        "generate",
        *(rollout for number in range(10) for rollout in solutions(2, 2, f"{number}+6")),
    )
    return data(store, **settings)


def test_an_iteration_is_one_pass_in_an_order_of_its_own(store, module):
    found = full(store, batch_size=7)
    orders = []
    for iteration in (1, 2):
        steps = found.steps(module, iteration, rank=0, world=1)
        batches = [steps[index] for index in range(len(steps))]  # type: ignore[arg-type]
        assert [batch["share"].item() for batch in batches] == [7, 7, 7, 7, 7, 5]
        assert found.num_examples == 40
        assert sum(batch["tokens"].item() for batch in batches) == 80 * 3  # "r0" and its end
        orders.append([batch["input_ids"].tolist() for batch in batches])
    assert orders[0] != orders[1]
    assert found.num_tokens == 80 * (len("2+6=") + 3)
    again = data(store, batch_size=7).steps(module, 1, rank=0, world=1)
    assert again[0]["input_ids"].tolist() == orders[0][0]


def test_the_reference_is_that_of_the_same_solution(store, module):
    """Each solution's tokens, behind its question, are a name of its own here."""
    found = full(store)
    compared = found.compared
    assert len({key(rollout) for rollout in compared}) == len(compared) == 40
    encode = module.policy.encode
    given = {(*encode(f"{r.question}="), *r.tokens): index for index, r in enumerate(compared)}
    found.scores.write(0, REFERENCE, 0, compared, [*map(float, given.values())], "sft")
    steps, references = found.steps(module, 1, rank=0, world=1), Counter()
    for index in range(len(steps)):  # type: ignore[arg-type]
        batch = steps[index]
        for owner, reference in enumerate(batch["reference"].tolist()):
            tokens = tuple(batch["input_ids"][batch["owner"] == owner].tolist())
            assert given[tokens] == reference
            references[tokens] += 1
    assert references == dict.fromkeys(given, 2)  # each is in two of its problem's four pairs


def test_a_step_with_less_than_a_group_for_each_rank_is_left_out(store, module):
    found = full(store, batch_size=13)  # 13, 13, 13, 1
    assert len(found.steps(module, 1, rank=0, world=1)) == 4  # type: ignore[arg-type]
    parts = [found.steps(module, 1, rank=rank, world=2) for rank in (0, 1)]
    assert [len(part) for part in parts] == [3, 3]  # type: ignore[arg-type]
    assert [len(part[0]["right"]) for part in parts] == [14, 12]


def test_problems_are_those_that_there_are_solutions_of(store):
    two_rounds(store)
    assert {*data(store).problems(1)} == {"a", "b", "c"}
