"""General text among the examples, and problems that a curriculum leaves."""

import json
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from star_exp.clock import Clock
from star_exp.data.encode import Example, pack
from star_exp.data.general import GeneralText
from star_exp.data.rollouts import RolloutDataModule, Steps
from star_exp.errors import UserError
from star_exp.filters import Correct
from star_exp.models.base import load
from star_exp.modules.loss import summed_loss
from star_exp.prompts import Prompts
from star_exp.records import Segment
from star_exp.run import run
from star_exp.sampling.base import Policy, fingerprint
from star_exp.schedule import AddedSteps, Epochs, Shuffled, draw
from star_exp.seeds import derive
from star_exp.store import RolloutStore
from star_exp.tasks.arithmetic import Arithmetic
from tests.rollouts import right

TEXTS = [f"{letter * 10} sat on {letter}." for letter in "abcdefghijklmnopqrstuvwxyz"]
TASK = Arithmetic(max_digits=2, train_size=60, dev_size=5, test_size=5, ood_size=5)


@pytest.fixture
def path(tmp_path) -> Path:
    """26 texts of 20 characters, and blank ones between them."""
    rows = [row for text in TEXTS for row in ({"text": text}, {"text": " "})]
    return written(tmp_path / "text.jsonl", rows)


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def data_of(policy: Policy, folder: Path, **settings: Any) -> RolloutDataModule:
    """In a new folder with a right rollout for each problem of iterations 1 and 2."""
    store = RolloutStore(folder / "rollouts")
    data = RolloutDataModule(
        task=TASK,
        store=store,
        clock=Clock(folder / "clock"),
        seed=0,
        filters=[Correct()],
        order=Shuffled(),
        phases=["generate"],
        prompts=Prompts(),
        **{
            "schedule": AddedSteps(12, 0),
            "batch_size": 8,
            "problems_per_iteration": 10,
            **settings,
        },
    )
    for iteration in () if store.iterations() else (1, 2):
        rollouts = [
            right(problem.id, segments=[Segment("#8", policy.encode("#8"))])
            for problem in data.problems(iteration)
        ]
        store.write(iteration, "generate", 0, rollouts)
    return data


def drawn(data: RolloutDataModule, policy: Policy, iteration: int) -> list[list[Example]]:
    examples, steps = data.training_set(policy, iteration)
    return [[examples[index] for index in step] for step in steps]


def is_window(example: Example) -> bool:
    return sum(example.trained) == len(example.tokens) - 1 == 29  # a rollout's prompt isn't trained


# Windows


def test_windows_are_the_text_cut_up_and_trained_on_but_for_the_first_token(policy, path):
    joined = "".join(text + "\n\n" for text in TEXTS)
    expected = [joined[start : start + 30] for start in range(0, len(joined) - 29, 30)]
    general = GeneralText(share=0.5, tokens=30, path=str(path))
    windows = general.draw(policy, len(expected), seed=0)
    assert sorted(policy.decode(window.tokens) for window in windows) == sorted(expected)
    assert {window.trained for window in windows} == {(False,) + (True,) * 29}


def test_the_loss_of_a_window_is_that_of_every_token_but_the_first(policy, path):
    general = GeneralText(share=0.5, tokens=30, path=str(path))
    window = general.draw(policy, 1, seed=0)[0]
    batch = Steps([window], [[0]], 0, 1, pack)[0]
    assert batch["share"] == 29  # as many tokens as there are losses
    tokens = torch.tensor([window.tokens])
    with torch.no_grad():
        found = summed_loss(policy.model, batch).item() / 29
        expected = policy.model(tokens, labels=tokens).loss.item()  # transformers' own mean
    assert found == pytest.approx(expected, rel=1e-6)


def test_a_window_begins_as_every_text_of_the_model_does(policy, path):
    class Begun(Policy):
        begin = (1,)  # type: ignore[assignment]

    general = GeneralText(share=0.5, tokens=30, path=str(path))
    window = general.draw(Begun(policy.model, policy.tokenizer), 1, seed=0)[0]
    assert window.tokens[0] == 1 and 1 not in window.tokens[1:]
    assert window.trained == (False,) + (True,) * 29


def test_only_the_first_texts_are_read_if_so_many_are_asked_for(policy, path):
    general = GeneralText(share=0.5, tokens=22, path=str(path), texts=4)  # two of them are blank
    windows = general.draw(policy, 2, seed=0)
    assert {policy.decode(window.tokens) for window in windows} == {
        f"{text}\n\n" for text in TEXTS[:2]
    }


def test_text_comes_from_the_hub_as_from_a_file(policy, path, monkeypatch):
    import datasets

    asked = []

    def load_dataset(*names: str, **options: str) -> list[dict[str, str]]:
        asked.append((*names, options["split"]))
        return [{"page": text} for text in TEXTS]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    hub = GeneralText(0.5, 30, hub="some/wiki", config="raw", split="test", field="page")
    for seed in (0, 1):
        assert hub.draw(policy, 9, seed) == GeneralText(0.5, 30, path=str(path)).draw(
            policy, 9, seed
        )
    assert asked == [("some/wiki", "raw", "test")]  # once


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"text": "short"}], r"has 7 tokens in all.*takes 30; lower data\.general\.tokens=30"),
        (
            [{"page": "x"}],
            r"data\.general: text\.jsonl line 1: expected a field 'text', found 'page'",
        ),
        ([{"text": 3}], r"data\.general: text\.jsonl line 1: 'text' is 3 \(int\)"),
        (
            [{"text": "Zoë"}],
            r"data\.general: text\.jsonl line 1: the model's tokenizer can't read it",
        ),
    ],
    ids=["short", "no field", "no text", "no token"],
)
def test_a_text_that_cannot_be_used_is_named(policy, tmp_path, rows, said):
    path = written(tmp_path / "text.jsonl", rows)
    with pytest.raises(UserError, match=said):
        GeneralText(share=0.5, tokens=30, path=str(path)).draw(policy, 1, seed=0)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"share": 0.0}, r"data\.general\.share=0\.0.*in \(0, 1\)"),
        ({"share": 1.0}, r"data\.general\.share=1\.0"),
        ({"tokens": 1}, r"data\.general\.tokens=1: expected at least 2"),
        ({"path": None}, r"data\.general: expected path=.*hub="),
    ],
)
def test_settings_out_of_range_are_refused(settings, said):
    with pytest.raises(UserError, match=said):
        GeneralText(**{"share": 0.5, "path": "text.jsonl", **settings})


# In the steps of an iteration


@pytest.mark.parametrize(("share", "number"), [(0.125, 1), (0.25, 2), (0.3, 2), (0.9, 7)])
@pytest.mark.parametrize("bucket", [1, 5])
def test_every_step_holds_the_share_to_the_nearest_example(
    policy, path, tmp_path, share, number, bucket
):
    general = GeneralText(share, 30, path=str(path))
    data = data_of(policy, tmp_path, general=general, bucket=bucket)
    steps = drawn(data, policy, 1)
    assert len(steps) == 12 and {len(step) for step in steps} == {8}
    assert [sum(map(is_window, step)) for step in steps] == [number] * 12


def test_a_share_that_leaves_a_step_without_text_or_without_rollouts_is_refused(policy, tmp_path):
    for share in (0.01, 0.99):
        with pytest.raises(UserError, match=r"share=0\.\d+ and data\.batch_size=8 clash"):
            data_of(policy, tmp_path, general=GeneralText(share, 30, path="text.jsonl"))


@pytest.mark.parametrize("settings", [{}, {"replay": 0.5, "exemplars": 3}, {"schedule": Epochs(3)}])
def test_the_rollouts_are_those_of_smaller_steps_without_text(policy, path, tmp_path, settings):
    general = GeneralText(0.25, 30, path=str(path))
    mixed = drawn(data_of(policy, tmp_path / "a", general=general, **settings), policy, 1)
    alone = drawn(data_of(policy, tmp_path / "b", batch_size=6, **settings), policy, 1)
    assert [[each for each in step if not is_window(each)] for step in mixed] == alone


def test_the_windows_follow_the_seed_and_the_iteration_alone(policy, path, tmp_path):
    def windows(data: RolloutDataModule, iteration: int) -> list[list[tuple[int, ...]]]:
        steps = drawn(data, policy, iteration)
        return [[each.tokens for each in step if is_window(each)] for step in steps]

    general = partial(GeneralText, 0.25, 30, path=str(path))
    whole = data_of(policy, tmp_path, general=general())
    first, second = windows(whole, 1), windows(whole, 2)
    assert first != second
    resumed = data_of(
        policy, tmp_path, general=general()
    )  # by another process, from iteration 2 on
    assert windows(resumed, 2) == second
    assert windows(data_of(policy, tmp_path, general=general()), 1) == first


def test_no_window_is_read_again_before_all_are(policy, path, tmp_path):
    data = data_of(policy, tmp_path, general=GeneralText(0.25, 30, path=str(path)))
    tokens = [each.tokens for step in drawn(data, policy, 1) for each in step if is_window(each)]
    assert len(tokens) == 24  # of 19 windows
    assert Counter(Counter(tokens).values()) == {1: 14, 2: 5}


def test_what_is_counted(policy, path, tmp_path):
    data = data_of(policy, tmp_path, general=GeneralText(0.25, 30, path=str(path)))
    steps = drawn(data, policy, 1)
    assert data.num_examples == 10  # rollouts that passed the filters
    assert data.num_tokens == sum(len(each.tokens) for step in steps for each in step)
    assert data.num_tokens > 12 * 2 * 30


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_share_text_and_rollouts_out(policy, path, tmp_path, ranks):
    data = data_of(policy, tmp_path, general=GeneralText(0.25, 30, path=str(path)))
    examples, steps = data.training_set(policy, 1)
    whole = Steps(examples, steps, 0, 1, pack)[3]
    parts = [Steps(examples, steps, rank, ranks, pack)[3] for rank in range(ranks)]
    loss = (summed_loss(policy.model, whole) / whole["share"]).item()
    each = [(summed_loss(policy.model, part) / part["share"]).item() for part in parts]
    assert sum(each) / ranks == pytest.approx(loss, rel=1e-6)


# Problems of an iteration


def test_without_a_curriculum_an_iteration_draws_from_all_problems(policy, tmp_path):
    data, problems = data_of(policy, tmp_path), TASK.problems("train")
    for iteration in (1, 2, 7):
        expected = draw(problems, 10, derive(0, "problems", iteration))
        assert [p.id for p in data.problems(iteration)] == [p.id for p in expected]


class Unsolved:
    """Problems without a right rollout in the last iteration, and what it was asked."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __call__(self, problems, iteration, earlier):
        self.asked.append(iteration)
        solved = {r.problem for r in earlier(iteration - 1) if r.correct}
        return [problem for problem in problems if problem.id not in solved]


def test_a_curriculum_chooses_by_what_the_iterations_before_generated(policy, tmp_path):
    data_of(policy, tmp_path)
    data = data_of(policy, tmp_path, curriculum=Unsolved(), problems_per_iteration=None)
    solved = {rollout.problem for rollout in data.store.read(1, "generate")}
    other = next(p.id for p in TASK.problems("train") if p.id not in solved)
    data.store.write(1, "rationalize", 0, [right(other)])  # of another phase, which does not count
    names = {problem.id for problem in data.problems(2)}
    assert names == {problem.id for problem in TASK.problems("train")} - solved


def test_fewer_problems_than_are_to_be_drawn_are_all_drawn(policy, tmp_path):
    problems = TASK.problems("train")
    data = data_of(policy, tmp_path, curriculum=lambda problems, *_: problems[:3])
    assert {p.id for p in data.problems(1)} == {p.id for p in problems[:3]}
    data = data_of(policy, tmp_path, problems_per_iteration=1000)
    assert {p.id for p in data.problems(1)} == {p.id for p in problems}


def test_a_curriculum_is_asked_once_an_iteration_and_a_resumed_run_draws_the_same(policy, tmp_path):
    data_of(policy, tmp_path)
    first, again = Unsolved(), Unsolved()
    data, resumed = (data_of(policy, tmp_path, curriculum=each) for each in (first, again))
    drawn = [[problem.id for problem in data.problems(2)] for _ in range(3)]
    assert first.asked == [2] and drawn[0] == drawn[1] == drawn[2]
    assert [problem.id for problem in resumed.problems(2)] == drawn[0]


# All of it in a run


def test_a_run_with_text_divergence_and_curriculum_goes_on_as_if_it_had_not_stopped(
    small_config, path, tmp_path
):
    words = (
        "module.kl_to_base=0.1",
        "data/curriculum=digits",
        "data.curriculum.first=1",
        f"data.general={{_target_: star_exp.data.general.GeneralText, path: {path}, share: 0.25, "
        "tokens: 20}",
    )
    for folder, iterations in (("whole", (2,)), ("halves", (1, 2))):
        for count in iterations:
            run(small_config(tmp_path / folder, *words, f"iterations={count}"), [])
    whole, halves = (load(tmp_path / folder / "model").model for folder in ("whole", "halves"))
    assert fingerprint(whole) == fingerprint(halves)
    store = RolloutStore(tmp_path / "whole" / "rollouts")
    digits = [{r.groups["digits"] for r in store.read(n, "generate")} for n in (1, 2)]
    assert digits == [{"1"}, {"1", "2"}]
