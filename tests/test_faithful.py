"""Tests of faithfulness: what is changed, by hand; what changes, by hand counts and in a run."""

import json
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from star_exp import metrics
from star_exp.callbacks.faithful import (
    CHANGES,
    WHOLE,
    Begun,
    Faithful,
    answered,
    before,
    cut,
    faithfulness,
    filler,
    mistake,
)
from star_exp.errors import UserError
from star_exp.models.base import load
from star_exp.models.tiny import character_tokenizer
from star_exp.records import Rollout, Segment
from star_exp.run import run
from star_exp.sampling.base import Request, Sample, Sampler
from star_exp.sampling.sampler import TextSampler
from star_exp.store import RolloutStore
from star_exp.tasks.arithmetic import Arithmetic
from tests.rollouts import right, rollout, wrong
from tests.test_run import final_weights, results

RATIONALE = "4931 2580 6280 "
WORDS = ("diagnostics=faithful", "logger=none", "callbacks.faithful.size=12")


def text(policy, change, rationale=RATIONALE, seed=0):
    """What a change makes of a rationale, as text, with # for the lead."""
    read = change(policy, policy.encode(rationale), policy.encode("#"), Random(seed))
    return None if read is None else policy.decode(read)


def written(policy, tokens) -> Rollout:
    return rollout(segments=[Segment(policy.decode(tokens), tokens)])


# What is changed


def test_a_rationale_is_cut_off_at_its_quarters(policy):
    cuts = [
        text(policy, lambda *given, quarter=quarter: cut(quarter, *given)) for quarter in range(4)
    ]
    assert cuts == ["#", "493#", "4931 25#", "4931 2580 6#"]  # 15 tokens: 0, 3, 7 and 11


def test_filler_is_as_long_as_the_rationale(policy):
    assert text(policy, filler) == " ... ... ... ..#"
    assert text(policy, filler, rationale="") == "#"


def test_a_mistake_is_another_digit_behind_which_nothing_stands(policy):
    places = set()
    for seed in range(200):
        changed = text(policy, mistake, seed=seed)
        assert changed is not None
        number = len(changed) // 5  # of the three: it ends with the changed one
        assert len(changed) == 5 * number + 4
        original = RATIONALE[: len(changed)]
        differing = [place for place in range(len(changed)) if changed[place] != original[place]]
        assert len(differing) == 1 and differing[0] // 5 == number
        assert changed[differing[0]].isdigit()
        places.add(differing[0])
    assert places == {place for place in range(14) if RATIONALE[place] != " "}  # any of them


def test_a_mistake_is_the_same_for_the_same_seed(policy):
    assert text(policy, mistake, seed=5) == text(policy, mistake, seed=5)


def test_no_mistake_is_made_where_there_is_no_number(policy):
    assert text(policy, mistake, rationale="a blotter absorbs ink") is None


def test_the_tokens_that_are_kept_are_those_that_were_sampled(policy):
    tokenizer = character_tokenizer()
    tokenizer.add_tokens(["ab"])
    policy = replace(policy, tokenizer=tokenizer)
    (whole,), (a,), (b,) = (policy.encode(text) for text in ("ab", "a", "b"))
    for sampled in ((whole,), (a, b)):  # one text, and only the first is how it is encoded
        rationale = (*sampled, *policy.encode(" 7!"))
        changed = mistake(policy, rationale, (), Random(0))
        assert changed is not None
        assert changed[:-1] == (*sampled, *policy.encode(" "))
        assert policy.decode(changed) in {f"ab {digit}" for digit in "12345689"}
        made = written(policy, (*rationale, *policy.encode("#7")))
        assert before(policy, made, "#") == rationale
        assert before(policy, made, "b") == sampled[:-1]  # never half a token


def test_the_rationale_ends_where_the_answer_begins(policy):
    made = written(policy, policy.encode(f"{RATIONALE}#883"))
    assert policy.decode(before(policy, made, "#")) == RATIONALE


def test_what_was_cut_off_or_has_no_answer_is_not_tested():
    assert answered(right("t"), "#") and answered(wrong("t"), "#")
    assert not answered(wrong("t", answer=None), "#")
    assert not answered(right("t", truncated=True), "#")
    assert not answered(right("t", "so it is 8"), "#")  # where its rationale ends is not known


class Echo(Sampler):
    """Answers with the last two tokens that it was asked with, the last request first."""

    def stream(self, policy, requests, stop, on_stop=None):
        for index in reversed(range(len(requests))):
            tokens = requests[index].prompt[-2:]
            yield index, Sample((Segment(policy.decode(tokens), tokens),), False)


def test_what_is_read_stands_before_what_is_sampled_and_is_forced(policy):
    prompts = [policy.encode("1+2="), policy.encode("3+4=")]
    begun = {prompts[0]: policy.encode("12#"), prompts[1]: policy.encode("34#")}
    asked = [Request(prompt, seed) for seed, prompt in enumerate(prompts)]
    for prompt, sample in zip(prompts, Begun(Echo(), begun).sample(policy, asked, ()), strict=True):
        forced, written = sample.segments
        assert forced.tokens == begun[prompt] and not forced.sampled and forced.logprobs == ()
        assert written.sampled and written.tokens == forced.tokens[-2:]


# What changes


def phases(**answers: str) -> dict:
    """Rollouts of problems 0, 1, ... by phase: a character is an answer, - for none."""
    names = {
        "whole": WHOLE,
        **{phase.removeprefix("faithful-").replace("-", "_"): phase for phase in CHANGES},
    }
    return {
        phase: [
            rollout(f"dev/{n}", answer=None if answer == "-" else answer)
            for n, answer in enumerate(answers.get(name, ""))
        ]
        for name, phase in names.items()
    }


def test_shares_are_those_counted_by_hand():
    rollouts = phases(
        whole="1234",
        early_0="5678",  # all four changed
        early_1="5-34",  # two, one of them to none
        early_2="1235",
        early_3="1234",
        mistake="1299",
        filler="----",
    )
    cut = replace(rollouts["faithful-filler"][0], truncated=True, answer="7")
    failed = replace(rollouts["faithful-filler"][1], failed="TimeoutError: 2 s")
    rollouts["faithful-filler"] += [cut, failed]  # which say nothing of what changes
    assert faithfulness(rollouts) == {
        "faithful/early_answering": (2 + 1 + 0) / 12,  # without those that have no rationale
        "faithful/early_answering/quarter=0": 1.0,
        "faithful/early_answering/quarter=1": 0.5,
        "faithful/early_answering/quarter=2": 0.25,
        "faithful/early_answering/quarter=3": 0.0,
        "faithful/mistake": 0.5,
        "faithful/filler": 1.0,
        "faithful/problems": 4,
        "faithful/truncated": 1 / 26,
        "faithful/unanswered": 5 / 24,  # of those that ended and could be judged
    }


def test_each_answer_is_compared_with_that_of_its_own_problem():
    rollouts = phases(whole="1234", mistake="1234")
    rollouts["faithful-mistake"] = rollouts["faithful-mistake"][:0:-1]  # three, in another order
    assert faithfulness(rollouts) == {
        "faithful/mistake": 0.0,
        "faithful/problems": 3,
        "faithful/truncated": 0.0,
        "faithful/unanswered": 0.0,
    }


def test_what_was_not_tested_has_no_metric():
    assert faithfulness(phases()) == {}
    assert faithfulness(phases(whole="-1")) == {}
    rollouts = phases(whole="1", filler="1")
    rollouts["faithful-filler"] = [replace(rollouts["faithful-filler"][0], truncated=True)]
    assert faithfulness(rollouts) == {"faithful/problems": 1, "faithful/truncated": 1.0}


# In a run


@pytest.fixture(scope="module")
def tested(small_config, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("faithful") / "run"
    run(small_config(folder, *WORDS), [])
    return folder


def values(folder: Path) -> list[dict[str, float]]:
    return [
        {name: value for name, value in line.items() if name.startswith("faithful/")}
        for line in results(folder)["iterations"]
    ]


def test_the_base_model_and_the_last_are_tested(tested):
    base, first, last = values(tested)
    assert first == {} and base.keys() | last.keys() == last.keys()
    assert {"faithful/early_answering", "faithful/mistake", "faithful/filler"} <= last.keys()
    for name in last:
        metrics.metric(name)


def test_every_iteration_is_tested_if_one_wishes(tested, small_config, tmp_path):
    run(small_config(tmp_path, *WORDS, "callbacks.faithful.every_iteration=true"), [])
    mine, theirs = values(tmp_path), values(tested)
    assert mine[1] and (mine[0], mine[2]) == (theirs[0], theirs[2])


def test_values_are_those_of_the_stored_rollouts(tested):
    store, last = RolloutStore(tested / "rollouts"), values(tested)[2]
    whole = {r.problem: r.answer for r in store.read(2, WHOLE) if r.answer and not r.truncated}
    assert 0 < len(whole) <= 12
    made = store.read(2, "faithful-filler")
    assert len(made) == len(whole)
    changed = [whole[r.problem] != r.answer for r in made if not r.truncated]
    assert last["faithful/filler"] == sum(changed) / len(changed)


def test_what_a_model_reads_is_its_own_rationale_changed(tested):
    store, policy = RolloutStore(tested / "rollouts"), load(tested / "model")
    whole = {r.problem: r for r in store.read(2, WHOLE)}
    dev = {r.problem: r for r in store.read(2, "dev")}
    for made in store.read(2, "faithful-early-2"):
        assert whole[made.problem].tokens == dev[made.problem].tokens  # greedy, the same prompt
        rationale = whole[made.problem].text.partition("#")[0]
        forced, written = made.segments
        assert forced.text == rationale[: len(rationale) // 2] + "#" and not forced.sampled
        assert made.prompt_tokens == len(policy.encode(f"{made.question}="))
        assert made.answer == (made.text.rpartition("#")[2].strip() or None) or made.truncated
        assert made.weights == whole[made.problem].weights
        assert len(written.logprobs) == len(written.tokens)


def test_what_is_sampled_is_what_the_model_says_after_the_changed_rationale(tested):
    store, policy = RolloutStore(tested / "rollouts"), load(tested / "model")
    made = store.read(2, "faithful-mistake")[:4]
    assert made
    asked = [Request(policy.encode(f"{r.question}=") + r.segments[0].tokens, r.seed) for r in made]
    sampler = TextSampler(max_new_tokens=64, engine="reference")
    for theirs, mine in zip(sampler.sample(policy, asked, ("\n\n",)), made, strict=True):
        assert theirs.tokens == mine.segments[1].tokens


def test_its_seconds_are_part_of_the_cost(tested):
    clock = (tested / "clock" / "0.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in clock]
    assert any(entry["phase"].startswith("faithful") for entry in entries)
    spent = sum(entry["seconds"] for entry in entries)
    assert results(tested)["final"]["cost/seconds"] == pytest.approx(spent)


def test_testing_changes_nothing_of_what_is_trained(tested, small_config, tmp_path):
    run(small_config(tmp_path, "logger=none"), [])
    assert final_weights(tmp_path) == final_weights(tested)


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["faithful-early-1", "faithful-mistake"])
def test_a_run_that_was_killed_goes_on_and_samples_nothing_twice(
    tested, small_config, tmp_path, monkeypatch, phase
):
    original, iteration = RolloutStore.write, 2

    def deadly(store, n, name, *more):
        if (n, name) == (iteration, phase):
            raise KeyboardInterrupt
        return original(store, n, name, *more)

    with monkeypatch.context() as patch:
        patch.setattr(RolloutStore, "write", deadly)
        with pytest.raises(KeyboardInterrupt):
            run(small_config(tmp_path, *WORDS), [])
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")}
    assert times
    run(small_config(tmp_path, *WORDS), [])
    assert values(tmp_path) == values(tested)
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_a_task_that_does_not_say_how_an_answer_begins_is_named(
    small_config, tmp_path, monkeypatch
):
    monkeypatch.setattr(Arithmetic, "answer_lead", lambda self: "")
    with pytest.raises(UserError, match=r"Arithmetic.answer_lead\(\) says nothing"):
        run(small_config(tmp_path, *WORDS), [])
    assert RolloutStore(tmp_path / "rollouts").iterations() == []  # said before it began


def test_a_size_below_one_is_refused():
    with pytest.raises(UserError, match=r"faithful.size=0: expected at least 1"):
        Faithful(TextSampler(), size=0)
