"""Process reward models: where steps end in tokens, what their labels are, and what is judged.

Labels are counted by hand on scripted completions, losses and scores computed by plain calls of the
model, one example at a time.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from star_exp import summary
from star_exp.callbacks.complete import Complete, Responses
from star_exp.callbacks.sampling import Start, Work, sample_phase
from star_exp.clock import Clock
from star_exp.data.encode import Example, pack, trained_tokens
from star_exp.data.process import COMPLETIONS, ProcessData
from star_exp.data.steps import begun, judged, right_steps, step_ends
from star_exp.data.verification import Singles, Solution, VerifierSteps
from star_exp.errors import UserError
from star_exp.models.lora import Lora
from star_exp.modules import packing
from star_exp.modules.loss import owned
from star_exp.modules.process import ProcessReward
from star_exp.modules.verifier import OutcomeReward, score
from star_exp.prompts import Prompts
from star_exp.records import Problem, Rollout, Segment
from star_exp.run import run
from star_exp.sampling.base import Policy, Request, Sample, Sampler
from star_exp.schedule import draw
from star_exp.scores import ScoreStore, key
from star_exp.seeds import derive
from star_exp.store import RolloutStore
from star_exp.tasks.arithmetic import Arithmetic
from tests.rollouts import right, rollout
from tests.test_ends import KINDS, kinds  # noqa: F401  a fixture
from tests.test_packing import VOCABULARY
from tests.test_run import final_weights, results
from tests.test_verification import write
from tests.test_verifier import PADDED, auc, folder, made, own_logprobs, step, with_head  # noqa: F401

TASK = Arithmetic(train_size=100, dev_size=10, test_size=10, ood_size=10)
LINES = Arithmetic(format="scratchpad")
SUM = Problem("train/0", "624+259", "883", {"digits": "3"})
RIGHT, WRONG = "4931 2580 6280 #883", "4931 2560 6260 #863"


def of_sum(policy: Policy, text: str, end: bool = False, **more: Any) -> Rollout:
    """A completion of 624+259, in the tokens of the policy."""
    tokens = (*policy.encode(text), *([1] if end else []))
    parts = {"segments": [Segment(text, tokens)], "question": SUM.question, **more}
    return replace(rollout(SUM.id, correct=text.endswith("#883"), **parts), gold=SUM.answer)


def process(root: Path, *words: Any, **more: Any) -> ProcessReward:
    """As the paper's: no language model's loss besides."""
    return made(ProcessReward, root, *words, **{"lm_weight": 0.0, **more})


# Where steps end


@KINDS
def test_a_step_ends_with_the_first_token_that_reaches_it(kinds, name):  # noqa: F811
    """Of all ways to write a text in tokens, those over ends and within characters too."""
    policy, texts = kinds[name].policy, ["the cat sat.\n\nthe a\n  aaa\nQ: 8", "a\nb\n\n"]
    if name != "characters":
        texts += ["the café\n日本。\n😀é\n\nè。", "a\n😀\n"]
    for text in texts:
        for seed in range(20):
            tokens = kinds[name].spell(text, random.Random(seed))
            written = rollout(segments=[Segment(policy.decode(tokens), tuple(tokens))])
            lost = len(text.encode()) - len(written.text.encode())  # a first space
            sizes = np.cumsum([len(kinds[name].tokens[token]) for token in tokens])
            expected = {
                int((sizes < lost + len(written.text[:place].encode())).sum()) + 1
                for place in LINES.steps(written.text)
            }
            assert step_ends(policy, LINES, written) == sorted(expected)
            ended = replace(written, segments=(Segment(written.text, (*tokens, 1)),))
            assert step_ends(policy, LINES, ended) == sorted(expected)  # <end> is no part of it


def test_digits_end_behind_their_space_and_the_answer_with_the_text(policy):
    for end in (False, True):
        assert step_ends(policy, TASK, of_sum(policy, RIGHT, end)) == [5, 10, 15, 19]
        assert begun(policy, TASK, of_sum(policy, RIGHT, end)) == [5, 10, 15]


def test_what_was_cut_off_has_the_steps_that_something_follows(policy):
    for text, ends in (("4931 25", [5]), ("4931 ", []), ("4931 2", [5]), ("49", [])):
        cut = of_sum(policy, text, truncated=True)
        assert step_ends(policy, TASK, cut) == begun(policy, TASK, cut) == ends


def test_an_empty_answer_is_one_step(policy):
    assert step_ends(policy, TASK, of_sum(policy, "", end=True)) == [0]
    assert begun(policy, TASK, of_sum(policy, "", end=True)) == []


def test_a_forced_part_counts_with_its_tokens(policy):
    parts = [("4931 25", True), ("80 ", False), ("6280 #883", True)]
    segments = [Segment(text, policy.encode(text), sampled) for text, sampled in parts]
    written = of_sum(policy, RIGHT, segments=segments)
    assert step_ends(policy, TASK, written) == [5, 10, 15, 19]


def test_the_truth_is_known_up_to_the_first_wrong_digit(policy):
    truth = right_steps(policy, TASK, of_sum(policy, WRONG))
    assert truth == {5: True, 10: False, 15: False, 19: False}
    cut = of_sum(policy, "4931 2580 6", truncated=True)
    assert right_steps(policy, TASK, cut) == {5: True, 10: True}


def test_judged_are_the_places_behind_steps(policy):
    prompt = policy.encode("624+259=")
    example = judged(policy, TASK, prompt, of_sum(policy, RIGHT))
    assert example.tokens == (*prompt, *policy.encode(RIGHT), 1)
    assert [i - len(prompt) for i, t in enumerate(example.trained) if t] == [5, 10, 15, 19]
    said = [policy.decode([example.tokens[i]]) for i, t in enumerate(example.trained) if t]
    assert said == ["2", "6", "#", ""]
    cut = judged(policy, TASK, prompt, of_sum(policy, "493", truncated=True))
    assert cut.trained == (False,) * (len(prompt) + 2) + (True,)  # nothing is done yet


# Completions


class Scripted(Sampler):
    """Says what the script has for a text, one after the other; notes what it was asked."""

    def __init__(self, policy: Policy, script: Mapping[str, Sequence[str]]):
        self.policy, self.script = policy, script
        self.asked: list[Request] = []

    def stream(self, policy, requests, stop, on_stop=None) -> Iterator[tuple[int, Sample]]:
        said: Counter[str] = Counter()
        self.asked += requests
        for index, request in enumerate(requests):
            text = self.policy.decode(request.prompt)
            answers = self.script[text]
            answer = answers[said[text] % len(answers)]
            said[text] += 1
            tokens = (*self.policy.encode(answer.rstrip("~")), 1)
            tokens = tokens[:-1] if answer.endswith("~") else tokens  # cut off
            logprobs = (-0.5,) * len(tokens)
            segment = Segment(self.policy.decode(tokens), tokens, True, logprobs)
            yield index, Sample((segment,), answer.endswith("~"))


SCRIPT = {
    "624+259=4931 ": ["2580 6280 #883", "2580 6280 #884"],  # half of them right
    "624+259=4931 2580 ": ["6280 #883"],
    "624+259=4931 2580 6280 ": ["#883"],
    "624+259=4931 2560 ": ["6260 #863", "6280 #863", "6260 #863", "#883"],  # a quarter
    "624+259=4931 2560 6260 ": ["#863", "#8", "", "#883~"],  # cut off is not right
}
LABELS = {  # of the steps of the two solutions: hard, soft
    "hard": ([1, 1, 1, 1], [1, 1, 0, 0]),
    "soft": ([0.5, 1, 1, 1], [0.5, 0.25, 0, 0]),
}


def data(root: Path, policy: Policy, **settings: Any) -> ProcessData:
    """Of a run that wrote a right and a wrong solution of 624+259, and one that was cut off."""
    store = RolloutStore(root / "run" / "rollouts")
    solutions = [of_sum(policy, RIGHT, end=True), of_sum(policy, WRONG)]
    write(store, 2, "generate", *solutions, of_sum(policy, "493", truncated=True))
    own = root / "run" / "verifier"
    made = ProcessData(
        task=TASK,
        store=RolloutStore(own / "rollouts"),
        clock=Clock(own / "clock"),
        seed=0,
        generator=root / "run",
        scores=ScoreStore(own / "scores"),
        prompts=Prompts(),
        **{"groups": Singles(None), "batch_size": 4, "iteration": 3, **settings},
    )
    made.writer = lambda like: like  # type: ignore[method-assign]
    return made


def trainer(datamodule: ProcessData, policy: Policy, rank: int = 0, world: int = 1) -> Any:
    strategy = SimpleNamespace(broadcast=lambda value: value, barrier=lambda name: None)
    return SimpleNamespace(
        datamodule=datamodule,
        strategy=strategy,
        callbacks=[],
        is_global_zero=rank == 0,
        global_rank=rank,
        world_size=world,
        max_epochs=1,
        received_sigterm=False,
    )


def complete(found: ProcessData, policy: Policy, **settings: Any) -> Scripted:
    """The phase, by the script."""
    sampler = Scripted(policy, SCRIPT)
    phase = Complete(sampler, **{"completions": 4, **settings})
    phase.on_base_model(trainer(found, policy), SimpleNamespace(policy=policy))  # type: ignore
    return sampler


def test_what_solutions_begin_with_is_completed_once(tmp_path, policy):
    found = data(tmp_path, policy)
    sampler = complete(found, policy)
    asked = Counter(policy.decode(request.prompt) for request in sampler.asked)
    assert asked == dict.fromkeys(SCRIPT, 4)  # five beginnings of six
    assert len(found.unfinished(policy)) == 6
    assert len({request.seed for request in sampler.asked}) == 20
    drawn = found.store.read(3, COMPLETIONS)
    assert sorted(each.sample for each in drawn) == [*range(20)]
    for each in drawn:
        first, second = each.segments
        assert not first.sampled and not first.logprobs and second.sampled
        assert f"624+259={first.text}" in SCRIPT and policy.decode(first.tokens) == first.text
        assert each.prompt_tokens == len("624+259=")
        assert each.correct == (each.text.endswith("#883") and not each.truncated)


@pytest.mark.parametrize("labels", ["hard", "soft"])
def test_labels_are_those_counted_by_hand(tmp_path, policy, labels):
    found = data(tmp_path, policy, labels=labels)
    complete(found, policy)
    by_text = {each.text: each for each in found.compared}
    for text, expected in zip((RIGHT, WRONG), LABELS[labels], strict=True):
        given = found.labelled_steps(policy, by_text[text])
        assert given == dict(zip([5, 10, 15, 19], expected, strict=True))
    assert found.labelled_steps(policy, by_text["493"]) == {}


def test_a_check_that_failed_is_no_completion(tmp_path, policy):
    found = data(tmp_path, policy, labels="soft")
    start = Segment("4931 ", policy.encode("4931 "), sampled=False)
    good = [of_sum(policy, "4931 #883", segments=[start, Segment("#883", (1,))])] * 2
    failed = replace(good[0], failed="TimeoutError", correct=False)
    other = Segment("4931 2580 ", policy.encode("4931 2580 "), sampled=False)
    unknown = replace(failed, segments=(other, Segment("#883", (1,))))
    write(found.store, 3, COMPLETIONS, *good, failed, unknown)
    assert found.completed == {(SUM.id, start.tokens): 1.0}
    (solution,) = [each for each in found.compared if each.text == RIGHT]
    assert found.labelled_steps(policy, solution) == {5: 1.0, 19: 1.0}


def test_completions_resume_to_the_same_bytes(tmp_path, policy):
    found = data(tmp_path, policy)
    complete(found, policy, prefixes_a_shard=2)
    paths = found.store.shards(3, COMPLETIONS)
    whole = [path.read_bytes() for path in paths]
    assert len(paths) == 3
    paths[1].unlink()
    sampler = complete(found, policy, prefixes_a_shard=2)
    assert len(sampler.asked) == 8
    assert [path.read_bytes() for path in paths] == whole
    assert not complete(found, policy, prefixes_a_shard=2).asked


def test_ranks_share_the_shards(tmp_path, policy):
    found, alone = data(tmp_path / "a", policy), data(tmp_path / "b", policy)
    for rank in (0, 1):
        phase = Complete(Scripted(policy, SCRIPT), completions=4, prefixes_a_shard=2)
        of_rank = trainer(found, policy, rank, 2)
        of_rank.strategy.broadcast = lambda _: [0, 1, 2]
        phase.on_base_model(of_rank, SimpleNamespace(policy=policy))  # type: ignore[arg-type]
    complete(alone, policy, prefixes_a_shard=2)
    assert found.store.read(3, COMPLETIONS) == alone.store.read(3, COMPLETIONS)


@pytest.mark.parametrize(
    ("before", "said", "text", "truncated"),
    [
        ("4931\n", "\n#883", "4931\n\n", False),  # the stop began in what was forced
        ("4931\n", "\n~", "4931\n\n", False),
        ("4931\n", "#883", "4931\n#883", False),
        ("4931\n\n", "#883", "4931\n\n#883", False),  # which may hold one: a human's
        ("4931 ", "#883\n\n", "4931 #883\n\n", False),
        ("4931 ", "#88~", "4931 #88", True),
    ],
)
def test_a_stop_string_may_begin_in_what_is_completed(
    tmp_path, policy, before, said, text, truncated
):
    found = data(tmp_path, policy)
    work = Work(TASK, "completions", iteration=3, trained=3, problems=())
    sampler = Scripted(policy, {f"624+259={before}": [said]})
    starts = [Start(SUM, policy.encode(before), first=7)]
    sample_phase(trainer(found, policy), policy, found, work, sampler, starts)
    (drawn,) = found.store.read(3, "completions")
    assert (drawn.text, drawn.truncated, drawn.sample) == (text, truncated, 7)
    assert policy.decode(drawn.tokens) == text
    assert len(drawn.segments[1].tokens) == len(drawn.segments[1].logprobs)


@pytest.mark.parametrize("problems", [3, None])
def test_responses_are_drawn_where_the_generator_sampled_nothing(tmp_path, policy, problems):
    found = data(tmp_path, policy)
    pool = TASK.problems("train")
    script = {f"{each.question}=": ["#1", "#2", "#2"] for each in pool}
    phase = Responses(Scripted(policy, script), samples=3, problems=problems)
    module: Any = SimpleNamespace(policy=policy)
    phase.on_base_model(trainer(found, policy), module)
    assert found.sampled and found.store.shards(3, "generate") == []
    bare = data(tmp_path / "bare", policy)
    (bare.solutions.path(2, "generate", 0)).unlink()
    write(bare.solutions, 1, "solutions", right("train/7", "human"))
    phase.on_base_model(trainer(bare, policy), module)
    assert not bare.sampled
    drawn = bare.store.read(3, "generate")
    asked = [each.id for each in draw(pool, problems, derive(0, "problems", 1))]
    assert [*dict.fromkeys(each.problem for each in drawn)] == asked
    assert {*Counter(each.problem for each in drawn).values()} == {3}
    assert all(len(mine) <= 3 for mine in bare.labelled.values())  # "#2" is one text
    assert {each.text for mine in bare.labelled.values() for each in mine} == {"human", "#1", "#2"}


# What a step of training is given


@pytest.fixture
def module(folder, policy) -> ProcessReward:  # noqa: F811
    found = process(folder)
    found.tokenizer = policy.tokenizer
    return found


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_labels_stand_at_the_places_behind_steps(tmp_path, policy, module, weight):
    found = data(tmp_path, policy)
    complete(found, policy)
    module.lm_weight = weight
    steps = found.steps(module, 1, rank=0, world=1)
    (batch,) = [steps[index] for index in range(len(steps))]  # type: ignore[arg-type]
    assert found.num_examples == 2  # of what was cut off in its first step nothing is known
    places = [5, 10, 15, 19]
    for owner, is_right in enumerate(batch["right"].tolist()):
        expected = LABELS["hard"][0 if is_right else 1]
        mine = batch["steps"][owner]
        if weight:  # every token of the completion, and its end
            assert len(mine) == 20
            assert [n for n, label in enumerate(mine.tolist()) if label >= 0] == places
            assert mine[places].tolist() == expected
        else:
            assert mine.tolist() == expected
    assert batch["judged"].item() == 8


def solutions(lengths: Sequence[int], seed: int = 0, every: bool = False) -> list[Solution]:
    """Random tokens and labels, some unknown; of every token, or of those that are judged alone."""
    rng, found = random.Random(seed), []
    for length in lengths:
        tokens = tuple(rng.randrange(1, VOCABULARY) for _ in range(length))
        places = sorted(rng.sample(range(2, length), min(length - 2, 1 + length // 4)))
        labels = dict(zip(places, rng.choices([0.0, 0.25, 1.0, -1.0], k=length), strict=False))
        labels[places[0]] = 1.0
        trained = tuple(place >= 2 if every else place in labels for place in range(length))
        kept = tuple(labels.get(p, -1.0) for p in range(length) if trained[p])
        found.append(Solution(Example(tokens, trained), float(rng.random() < 0.5), None, kept))
    return found


def batch_of(found: Sequence[Solution], rows: Callable = pack) -> dict[str, Tensor]:
    batch = VerifierSteps([[(each,) for each in found]], 0, 1)[0]
    kept = {name: batch[name] for name in ("right", "steps", "judged", "tokens")}
    return {**kept, **owned(rows, [each.example for each in found])}


def plain(module: OutcomeReward, each: Solution) -> Tensor:
    """The judgement of each trained token of an example by itself, from the state before it."""
    output = module.model(torch.tensor([each.example.tokens]), output_hidden_states=True)
    states = output.hidden_states[-1][0, :-1].float()
    found = states @ module.head.weight[0] + module.head.bias
    return found[torch.tensor(each.example.trained[1:])]


ROWS = pytest.mark.parametrize("rows", [pack, PADDED], ids=["packed", "padded"])
SOME = [9, 3, 17, 9, 12, 6]


@ROWS
@pytest.mark.parametrize("lora", [None, Lora(rank=4, alpha=8.0)], ids=["all", "lora"])
@pytest.mark.parametrize("weight", [0.0, 0.25])
@pytest.mark.parametrize("enabled", [True, False], ids=["rows", "no rows"])
def test_the_loss_is_the_mean_over_judged_steps(folder, rows, lora, weight, enabled):  # noqa: F811
    module = with_head(process(folder, lora, lm_weight=weight))
    if enabled:
        packing.enable(module.model)
    some = solutions(SOME, every=weight > 0)
    losses, hits = [], []
    for each in some:
        given = plain(module, each).detach().double().numpy()
        for logit, label in zip(given, each.steps or (), strict=True):
            if label >= 0:
                p = 1 / (1 + np.exp(-logit))
                losses.append(-label * np.log(p) - (1 - label) * np.log(1 - p))
                hits.append((p > 0.5) == (label > 0.5))
    tokens = trained_tokens([each.example for each in some])
    own = own_logprobs(module.model, [each.example for each in some]).detach()
    language = -float(own @ torch.tensor([each.right for each in some])) / tokens
    loss, logged = step(module, batch_of(some, rows))
    assert logged.pop("train/loss") == loss.item()
    assert loss.item() == pytest.approx(np.mean(losses) + weight * language, rel=1e-4)
    expected = {"train/judgement_accuracy": np.mean(hits), "train/lr": 0.5}
    expected |= {"train/lm_loss": language} if weight else {}
    assert logged == pytest.approx(expected, rel=1e-4)


def test_ranks_share_a_step(folder):  # noqa: F811
    module = with_head(process(folder))
    groups = [[(each,) for each in solutions(SOME)]]
    whole, _ = step(module, VerifierSteps(groups, 0, 1)[0])
    parts = [step(module, VerifierSteps(groups, rank, 2)[0])[0].item() for rank in (0, 1)]
    assert sum(parts) / 2 == pytest.approx(whole.item(), rel=1e-5)


def test_gradients_come_from_judged_places_alone(folder):  # noqa: F811
    """What is read behind the last judged place changes none; nor do tokens that aren't judged."""
    module = with_head(process(folder))
    example = Example((5, 9, 8, 7, 6, 4, 3), (False, False, True, False, True, False, False))
    each = Solution(example, 1.0, None, (1.0, -1.0))
    weights = [w for w in module.parameters() if w.requires_grad]

    def gradient(changed: Solution) -> list[Tensor]:
        loss, _ = step(module, batch_of([changed]))
        return [*torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)]

    expected = gradient(each)
    assert any(part.abs().sum() > 0 for part in expected)
    given = plain(module, each)[0]
    by_hand = torch.autograd.grad(
        torch.nn.functional.softplus(-given), weights, allow_unused=True, materialize_grads=True
    )
    for part, other in zip(expected, by_hand, strict=True):
        torch.testing.assert_close(part, other)
    later = replace(example, tokens=(5, 9, 1, 2, 3, 4, 5))  # from the judged place's own token on
    for part, other in zip(expected, gradient(replace(each, example=later)), strict=True):
        torch.testing.assert_close(part, other)


@ROWS
@pytest.mark.parametrize("enabled", [True, False], ids=["rows", "no rows"])
def test_the_score_is_the_lowest_judgement_and_not_the_mean(folder, rows, enabled):  # noqa: F811
    module = with_head(process(folder))
    if enabled:
        packing.enable(module.model)
    some = solutions(SOME)
    judgements = [plain(module, each).detach().double().sigmoid() for each in some]
    found = module.scores(owned(rows, [each.example for each in some]))
    assert found.dtype == torch.float64
    assert found.tolist() == pytest.approx([part.min().item() for part in judgements], rel=1e-4)
    means = [part.mean().item() for part in judgements]
    assert any(abs(mean - low) > 0.05 for mean, low in zip(means, found.tolist(), strict=True))
    assert score(module, [each.example for each in some], 20) == pytest.approx(
        found.tolist(), rel=1e-4
    )
    assert ProcessReward.probable


def test_where_a_solution_goes_wrong_is_learned(folder):  # noqa: F811
    """Three steps of two tokens each; from a 9 on all are wrong. Others are judged than trained."""
    rng = random.Random(0)

    def drawn() -> Solution:
        tokens, labels = [5], []
        for _ in range(3):
            tokens += [rng.choice((9, 20, 21, 22, 23)), 3]
            labels.append(float(9 not in tokens))
        places = tuple(place in (3, 5, 7) for place in range(8))
        return Solution(Example((*tokens, 4), places), labels[-1], None, tuple(labels))

    module = process(folder, learning_rate=3e-3)
    packing.enable(module.model)
    optimizer = torch.optim.AdamW(module.parameters(), module.learning_rate)
    for _ in range(60):
        loss, _ = step(module, batch_of([drawn() for _ in range(16)]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    others = [drawn() for _ in range(40)]
    scores = score(module, [each.example for each in others], 1000)
    right = [each.right == 1.0 for each in others]
    assert 10 < sum(right) < 30
    assert auc(scores, right) > 0.95


def test_at_the_start_every_step_is_a_half(folder):  # noqa: F811
    module = process(folder)
    assert score(module, [each.example for each in solutions(SOME)], 1000) == [0.5] * 6
    assert module.lm_weight == 0


def test_a_verifier_reads_its_examples_in_its_own_way(module, policy):
    prompt, written = policy.encode("624+259="), of_sum(policy, RIGHT)
    assert module.example(TASK, prompt, written) == judged(policy, TASK, prompt, written)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Complete(None, completions=0), r"complete\.completions=0: expected 1 or more"),  # type: ignore[arg-type]
        (lambda: Responses(None, samples=0), r"responses\.samples=0: expected 1 or more"),  # type: ignore[arg-type]
        (lambda: Responses(None, problems=0), r"responses\.problems=0: expected 1 or more"),  # type: ignore[arg-type]
    ],
)
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_other_labels_are_refused(tmp_path, policy):
    with pytest.raises(UserError, match=r"verifier\.data\.labels=harder: did you mean 'hard'"):
        data(tmp_path, policy, labels="harder")


# A whole run


@pytest.fixture(scope="module")
def finished(small_config, tmp_path_factory) -> Path:
    """A generator of two iterations, and the process reward model of what it sampled."""
    root = tmp_path_factory.mktemp("runs") / "process"
    words = (
        *("variant=star_dagger", "iterations=2", "data/schedule=two_epochs", "verifier=process"),
        *("task.max_digits=3", "task.dev_size=60", "model.steps=320", "model.seed_rationales=200"),
        *("model.learning_rate=4e-3", "data.exemplars=15", "data.problems_per_iteration=100"),
        *("callbacks.evaluate.splits=[]", "callbacks.evaluate.final_splits=[]"),
        *("callbacks.generate.samples=8", "callbacks.candidates.samples=8"),
        *("callbacks.candidates.final_splits=[dev]", "verifier.callbacks.score.final_splits=[]"),
        *("verifier.callbacks.candidates.final_splits=[dev]", "verifier.iterations=2"),
        *("verifier.callbacks.complete.completions=4", "verifier.data.batch_size=8"),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(summary, "draw_curves", lambda *_: None)
        run(small_config(root, *words))
    return root


@pytest.mark.slow
def test_a_fitted_model_scores_the_candidates(finished):
    fit, final = finished / "verifier" / "iter_002", results(finished)["final"]
    assert "dev/best_of_8/process" in final
    candidates = RolloutStore(finished / "rollouts").read(2, "dev-candidates")
    given = ScoreStore(fit / "scores").read(2, "dev-candidates")
    by_hand = auc([given[key(each)] for each in candidates], [each.correct for each in candidates])
    assert final["dev/auc/process"] == pytest.approx(by_hand)
    assert {*ScoreStore(fit / "scores").read(0, "dev-candidates").values()} == {0.5}
    assert "head.weight" in load_file(fit / "verifier.safetensors")


@pytest.mark.slow
def test_what_its_labels_are_worth_is_measured(finished):
    fit = finished / "verifier" / "iter_002"
    final, store = results(fit)["final"], RolloutStore(fit / "rollouts")
    completions = store.read(2, COMPLETIONS)
    spoken = sum(len(each.segments[1].tokens) for each in completions)
    assert final["completions/tokens"] == spoken > 0
    assert final["completions/seconds"] > 0
    counts = Counter((each.problem, each.segments[0].text) for each in completions)
    assert {*counts.values()} == {4}
    assert {each.weights for each in completions} == {final_weights(finished)}
    assert 0.5 < final["steps/label_accuracy"] <= 1
    assert 0 < final["steps/right"] < 1 and final["steps/labelled"] > len(counts)


@pytest.mark.slow
def test_its_rate_goes_down_over_all_passes(finished):
    """To 0 after the last, and not already after the first, behind which nothing would change."""
    fit = finished / "verifier" / "iter_002"
    held = torch.load(fit / "checkpoints" / "last.ckpt", weights_only=True)
    assert held["lr_schedulers"][0]["_last_lr"] == [0.0, 0.0]
    first, last = (ScoreStore(fit / "scores").read(pass_, "dev-candidates") for pass_ in (1, 2))
    assert first.keys() == last.keys() and first != last
