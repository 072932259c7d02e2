"""Runs compared: what is gathered, told apart, missing, warned of, tested and written."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

import pytest
import yaml

from star_exp import metrics
from star_exp.cli import main
from star_exp.errors import UserError
from star_exp.files import write_json
from star_exp.records import Rollout
from star_exp.report import Comparison, compare, curves, differing, tables
from star_exp.report.runs import WRITTEN, Run, collect, named
from star_exp.report.values import values_of
from star_exp.scores import ScoreStore
from star_exp.store import RolloutStore
from tests.rollouts import right, rollout, wrong

DATA = {"dev": "da7a of 4", "test": "7e57 of 4"}
RIGHT = {"a": "1", "b": "0", "c": "1", "d": "0"}  # problems, and whether they were answered


def judged(phase: str, flags: Mapping[str, str], iteration: int = 0) -> list[Rollout]:
    """A rollout for each flag: 1 is right, 0 is wrong, and x could not be checked."""
    kinds = {"1": right, "0": wrong, "x": wrong}
    return [
        replace(
            kinds[flag](f"{phase}/{name}", phase=phase, sample=sample),
            iteration=iteration,
            failed="TimeoutError" if flag == "x" else None,
        )
        for name, flags_of_one in flags.items()
        for sample, flag in enumerate(flags_of_one)
    ]


def make(
    root: Path,
    variant: str = "star",
    seed: int = 0,
    *,
    cell: str = "",
    test: Mapping[str, str] | None = RIGHT,
    dev: Sequence[Mapping[str, str]] = (RIGHT, RIGHT),
    candidates: Sequence[Rollout] = (),
    tokens: int = 100,
    status: str = "finished",
    overrides: Sequence[str] = (),
    config: Mapping[str, Any] | None = None,
    other_task: Sequence[str] = (),
    **manifest: Any,
) -> Path:
    """A run directory that measured these; each iteration wrote so many tokens.

    other_task: ids of problems of ood/svamp, all answered.
    """
    folder = root / f"{variant}-sums-tiny-{cell or variant}" / f"seed{seed}"
    store, lines = RolloutStore(folder / "rollouts"), []
    phases = [(n, judged("dev", flags, n)) for n, flags in enumerate(dev)]
    last = len(dev) - 1
    for n, rollouts in phases:
        store.write(n, "dev", 0, rollouts)
        spent = {"cost/tokens": n * tokens, "cost/flops": n * tokens * 10, "cost/seconds": n * 60.0}
        trained = {"generate/tokens": tokens, "train/steps": 7, "train/tokens": 50} if n else {}
        lines.append(
            {"iteration": n, **metrics.sampled("dev", rollouts, "accuracy"), **spent, **trained}
        )
    if test is not None:
        rollouts = judged("test", test, last)
        store.write(last, "test", 0, rollouts)
        lines[-1] |= metrics.sampled("test", rollouts, "accuracy")
    if other_task:
        rollouts = judged("ood-svamp", dict.fromkeys(other_task, "1"), last)
        store.write(last, "ood-svamp", 0, rollouts)
        lines[-1] |= metrics.sampled("ood/svamp", rollouts, "accuracy")
    if candidates:
        drawn = [replace(each, iteration=last) for each in candidates]
        store.write(last, "dev-candidates", 0, drawn)
        lines[-1] |= metrics.candidates("dev", drawn)
        likelihoods = [each.logprob for each in drawn]
        lines[-1] |= metrics.selected("dev", drawn, "likelihood", likelihoods)
    settings = {
        "choices": {"variant": variant, "task": "sums", "model": "tiny"},
        "cell": cell or variant,
        "seed": seed,
        "iterations": last,
        "callbacks": {
            "evaluate": {"sampler": {"temperature": 0.0, "max_new_tokens": 64}},
            "candidates": {
                "sampler": {"temperature": 0.7, "max_new_tokens": 64, "top_p": 0.9},
                "samples": 4,
            },
            "other_tasks": {
                "sampler": {"temperature": 0.5, "max_new_tokens": 64, "top_k": None},
                "tasks": {"svamp": {"path": "svamp.json"}},
            },
        },
        **(config or {}),
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    said = [f"variant={variant}", f"seed={seed}", "logger=none", *overrides]
    write_json(folder / "manifest.json", {"overrides": said, "data": DATA, **manifest})
    write_json(
        folder / "results.json",
        {"status": status, "iterations": lines, "requested_iterations": last},
    )
    return folder


def flags(of: str) -> dict[str, str]:
    """ "1001" -> right, wrong, wrong, right on the problems a, b, c, d."""
    return dict(zip("abcdefghijklmnopqrstuvwxyz", of, strict=False))


def only(comparison: Comparison, *words: str) -> str:
    """The warning that has these words in it."""
    (found,) = [told for told in comparison.warnings if all(word in told for word in words)]
    return found


def test_rows_are_cells_and_what_lies_below_runs_and_in_caches_is_left_out(tmp_path):
    for seed in (0, 1):
        make(tmp_path, "star", seed)
    make(tmp_path / "deep" / "er", "rft", 0)
    verifier = make(tmp_path, "vstar", 0) / "verifier"
    make(verifier, "dpo", 0)
    make(tmp_path / "cache", "process", 0)
    runs, unread = collect([tmp_path])
    assert {name: len(of) for name, of in named(runs).items()} == {"rft": 1, "star": 2, "vstar": 1}
    assert unread == []
    runs, _ = collect([tmp_path / "cache", verifier])
    assert [*named(runs)] == ["dpo", "process"]
    assert [*named(collect([tmp_path / "star-sums-tiny-star" / "seed1"])[0])] == ["star"]


def test_a_folder_without_runs_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no run directory in (?s:.*)give a folder of runs"):
        compare([tmp_path])


def test_a_damaged_file_is_named_and_the_others_go_on(tmp_path, capsys):
    make(tmp_path, "star", 0)
    (make(tmp_path, "star", 1) / "results.json").write_text('{"status": "fin')
    folder = make(tmp_path, "star", 2)
    (folder / "rollouts/iter_001/test/00000.parquet").write_bytes(b"PAR1")
    comparison = compare([tmp_path])
    (row,) = comparison.rows
    assert row.seeds == (0,)
    first, second = comparison.missing
    assert re.search(r"seed1 can't be read \(JSONDecodeError", first)
    assert re.search(r"star, seed 2: left out; .*00000.parquet can't be read", second)


def test_a_copy_of_a_run_counts_once(tmp_path):
    first = make(tmp_path / "one", "star", 0, run_id="cafe")
    again = make(tmp_path / "two", "star", 0, run_id="cafe")
    os.utime(again / "results.json", (0, 0))
    comparison = compare([tmp_path / "one", tmp_path / "two", tmp_path / "one"])
    assert comparison.rows[0].seeds == (0,)
    assert comparison.missing == (
        f"{again} (finished, iteration 1 of 1) is a copy of the run in {first} (finished, "
        "iteration 1 of 1): left out",
    )


@pytest.mark.parametrize(
    ("less", "more"),
    [
        ({"status": "failed", "dev": [RIGHT] * 5}, {"dev": [RIGHT] * 2}),
        ({"dev": [RIGHT] * 2}, {"dev": [RIGHT] * 5}),
    ],
)
@pytest.mark.parametrize("names", [("a", "b"), ("b", "a")])
def test_of_two_runs_of_a_config_and_seed_the_finished_longer_one_counts(
    tmp_path, less, more, names
):
    """Whichever folder comes first, and though the other one was written later."""
    kept = make(tmp_path / names[0], "star", 0, run_id="1", **more)
    left = make(tmp_path / names[1], "star", 0, run_id="2", **less)
    comparison = compare([tmp_path])
    ((run,),) = [row.runs for row in comparison.rows]
    assert run.folder == kept
    (told,) = comparison.missing
    status = less.get("status", "finished")
    far = f"iteration {len(less['dev']) - 1} of {len(less['dev']) - 1}"
    assert told.startswith(f"{left} ({status}, {far}) is another run of the config and seed in ")


def test_of_two_equally_long_runs_the_newest_counts(tmp_path):
    old, new = (make(tmp_path / name, "star", 0) for name in "ab")
    os.utime(old / "results.json", (0, 0))
    assert compare([tmp_path]).rows[0].runs[0].folder == new
    os.utime(new / "results.json", (0, 0))
    os.utime(old / "results.json")
    assert compare([tmp_path]).rows[0].runs[0].folder == old


def test_each_folder_that_is_named_holds_runs(tmp_path, capsys):
    make(tmp_path / "study")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"there is no folder .*studdy: expected folders that"):
        compare([tmp_path / "studdy", tmp_path / "study"])
    with pytest.raises(UserError, match=r"no run directory in .*empty: expected"):
        compare([tmp_path / "study", tmp_path / "empty"])
    assert main(["report", str(tmp_path / "studdy"), str(tmp_path / "study")]) != 0
    assert not (tmp_path / "studdy").exists()


def test_a_run_without_a_manifest_is_compared(tmp_path):
    make(tmp_path, "star", versions={"torch": "2"})
    (make(tmp_path, "rft") / "manifest.json").unlink()
    assert {row.name for row in compare([tmp_path]).rows} == {"star", "rft"}


@pytest.mark.parametrize("lost", ["test", "dev"])
def test_a_run_whose_rollouts_are_not_all_there_is_left_out(tmp_path, lost):
    make(tmp_path, "star", 0)
    short, gone = make(tmp_path, "star", 1), make(tmp_path, "star", 2)
    RolloutStore(short / "rollouts").write(1, lost, 0, judged(lost, flags("11"), 1))
    shutil.rmtree(gone / "rollouts")
    comparison = compare([tmp_path])
    assert comparison.rows[0].seeds == (0,)
    first, second = comparison.missing
    counted = f"problems of {lost} at iteration 1, and its results.json counts 4; copy its rollouts"
    assert "star, seed 1: left out; " in first and f"of 2 {counted}" in first
    assert "star, seed 2: left out; " in second and "of 0 problems" in second


def test_rows_of_a_variant_are_told_apart_by_their_settings(tmp_path):
    make(tmp_path, "rft", cell="1")
    make(tmp_path, "rft", cell="2", overrides=["samples=16", "data.filters.a.b=1", "name=mine"])
    make(tmp_path, "rft", cell="3", overrides=["data.filters.a.b=2", "samples=16"])
    make(tmp_path, "star", overrides=["task.max_digits=3"])
    make(tmp_path, "sft", cell="4")
    make(tmp_path, "sft", cell="5")
    assert [*named(collect([tmp_path])[0])] == [
        "rft",
        "rft, samples=16, data.filters.a.b=1",
        "rft, samples=16, data.filters.a.b=2",
        "sft (4)",
        "sft (5)",
        "star",
    ]


def test_of_many_settings_a_name_has_those_that_tell_it_apart(tmp_path):
    many = [f"data.a{n}={n}" for n in range(5)]
    make(tmp_path, "rft", cell="1", overrides=["module.x.y=1"])
    make(tmp_path, "rft", cell="2", overrides=[*many, "+module.x.y=1"])
    assert [*named(collect([tmp_path])[0])] == ["rft", "rft, data.a0=0, +4 more"]


def test_the_mean_and_its_seeds_are_what_the_runs_say(tmp_path):
    make(tmp_path, "star", 0, test=flags("1110"))
    make(tmp_path, "star", 1, test=flags("10x0"))
    value = compare([tmp_path]).rows[0].values["test/accuracy"]
    assert value.by_seed == {0: 0.75, 1: pytest.approx(1 / 3)}
    assert value.mean == pytest.approx((0.75 + 1 / 3) / 2)
    assert value.problems == 3
    low, high = value.interval or (1, 0)
    assert 0 <= low < value.mean < high <= 1


def test_a_number_has_one_interval(tmp_path):
    for seed, of in ((0, "110100111"), (1, "100110111"), (2, "111110011")):
        make(tmp_path, "star", seed, dev=[flags(of[::-1]), flags(of)])
    comparison = compare([tmp_path])
    (row,), (tokens, _) = comparison.rows, comparison.equal
    curve, interval = row.curves["dev/accuracy"], row.values["dev/accuracy"].interval
    assert (curve.low[-1], curve.high[-1]) == interval
    assert tokens.rows[0].value.interval == interval


def test_dev_is_the_metric_where_no_test_was_measured(tmp_path):
    make(tmp_path, "star", test=None)
    assert compare([tmp_path]).metric == "dev/accuracy"


def test_what_was_spent_is_summed_over_the_run(tmp_path):
    make(tmp_path, "star", dev=[RIGHT] * 4, tokens=1000)
    values = compare([tmp_path]).rows[0].values
    spent = {name: value.mean for name, value in values.items() if name.startswith("cost/")}
    assert spent == {
        "cost/steps": 21,
        "cost/generated_tokens": 3000,
        "cost/trained_tokens": 150,
        "cost/flops": 30_000,
        "cost/seconds": 180,
    }


def test_tokens_that_count_as_written_are_those_of_the_runs_own_costs():
    from star_exp.callbacks import report

    assert WRITTEN == report.WRITTEN


def test_candidates_of_each_problem_give_the_means_that_runs_compute(tmp_path):
    rng, drawn = Random(0), []
    for problem, sample in product(range(5), range(4)):
        answer = rng.choice(["8", "8", "9", "7", None])
        drawn.append(
            replace(
                rollout(
                    f"dev/{problem}",
                    f"{rng.choice('xyz')}#{answer}",
                    answer=answer,
                    correct=answer == "8",
                    truncated=rng.random() < 0.2,
                    sample=sample,
                    phase="dev-candidates",
                ),
                failed="TimeoutError" if rng.random() < 0.1 else None,
            )
        )
    scored = [
        replace(each, segments=(replace(each.segments[0], logprobs=(-rng.random(),)),))
        for each in drawn
    ]
    dev = [flags("10110")] * 2  # as many problems
    run = collect([make(tmp_path, "star", dev=dev, candidates=scored)])[0][0]
    names = [name for name in run.final if re.search("pass@|majority@4|best_of.*/likeli", name)]
    found = values_of(run, names)
    assert {*found} == {*names} - {"dev/weighted_majority@4/likelihood"}
    for name, values in found.items():
        assert fmean(values.values()) == pytest.approx(run.final[name]), name
    columns = [column.metric for column in compare([tmp_path]).columns]
    assert columns[1:3] == ["dev/accuracy", "dev/pass@4"]
    assert {"dev/pass@4-4", "dev/majority@4", "dev/best_of_4/likelihood"} < {*columns}


def test_what_a_verifier_of_the_run_picks_has_a_value_by_problem(tmp_path):
    """Of two candidates one is right; the verifier puts that of dev/a first, of dev/b last."""
    drawn = [
        kind(f"dev/{name}", sample=sample, phase="dev-candidates")
        for name in "ab"
        for sample, kind in enumerate((right, wrong))
    ]
    verifier = {"callbacks": {"score": {"name": "dpo"}}}
    dev = [flags("10")] * 2
    folder = make(tmp_path, "vstar", dev=dev, candidates=drawn, config={"verifier": verifier})
    results = json.loads((folder / "results.json").read_text())
    results["iterations"][-1]["dev/best_of_2/dpo"] = 0.5
    write_json(folder / "results.json", results)
    scores = ScoreStore(folder / "verifier/iter_001/scores")
    stored = RolloutStore(folder / "rollouts").read(1, "dev-candidates")
    scores.write(2, "dev-candidates", 0, stored, [0.0, 1.0, 0.0, 1.0], "old")
    scores.write(3, "dev-candidates", 0, stored, [1.0, 0.0, 0.0, 1.0], "new")
    (run,), _ = collect([tmp_path])
    found = values_of(run, ["dev/best_of_2/dpo"])
    assert found == {"dev/best_of_2/dpo": {"dev/a": 1.0, "dev/b": 0.0}}
    assert (
        compare([tmp_path], metric="dev/best_of_2/dpo").rows[0].values["dev/best_of_2/dpo"].interval
    )


def test_seeds_that_others_have_and_runs_that_did_not_finish_are_missing(tmp_path):
    for seed in (0, 1, 2):
        make(tmp_path, "star", seed)
    make(tmp_path, "rft", 0)
    make(tmp_path, "bstar", 0, status="running")
    failed = make(tmp_path, "sft", 1, status="failed")
    results = json.loads((failed / "results.json").read_text())
    write_json(failed / "results.json", results | {"error": "OSError: disk"})
    comparison = compare([tmp_path])
    assert {row.name: row.seeds for row in comparison.rows} == {"rft": (0,), "star": (0, 1, 2)}
    told = "\n".join(comparison.missing)
    assert "rft: no run with seeds 1, 2, which other rows have" in told
    assert "bstar, seed 0: running, iteration 1 of 1; " in told
    assert "sft, seed 1: failed, iteration 1 of 1 (OSError: disk); " in told
    assert "sft: no run with seeds 0, 2" in told
    assert any("Some rows have one seed" in note for note in comparison.notes)


def test_unfinished_runs_alone_are_no_comparison(tmp_path):
    make(tmp_path, "star", 0, status="running")
    with pytest.raises(UserError, match="no run is finished:\n  star, seed 0: running"):
        compare([tmp_path])


def test_what_differs_beside_the_variant_is_warned_of(tmp_path):
    of = {"git": {"sha": "a" * 40, "dirty": False}, "versions": {"torch": "2", "peft": "1"}}
    other = {"git": {"sha": "b" * 40, "dirty": True}, "versions": {"torch": "3", "peft": "1"}}
    make(tmp_path, "star", 0, **of)
    make(tmp_path, "rft", 0, overrides=["samples=16", "+data.batch_size=8"], **of)
    make(tmp_path, "sft", 0, dev=[RIGHT] * 3, overrides=["samples=16"], **other)
    make(tmp_path, "base", 0, dev=[RIGHT], **of)
    comparison = compare([tmp_path])
    assert only(comparison, "data.batch_size") == (
        "configs differ in more than the variant: only rft had data.batch_size=8"
    )
    assert "only rft, sft had samples=16" in only(comparison, "samples=16")
    told = only(comparison, "number of iterations")  # the base model's none doesn't count
    assert told == "number of iterations differs: 1 in rft, star; 2 in sft"
    assert only(comparison, "torch") == ("version of torch differs: 2 in base, rft, star; 3 in sft")
    assert "aaaaaaaa in base, rft, star; bbbbbbbb in sft" in only(comparison, "commit differs")
    assert "1 of 4 runs" in only(comparison, "in no commit")
    assert len(comparison.warnings) == 6


def test_runs_alike_but_for_the_variant_give_no_warning(tmp_path):
    for variant, seed in product(("star", "rft"), (0, 1)):
        make(tmp_path, variant, seed, overrides=["experiment=e"], versions={"torch": "2"})
    comparison = compare([tmp_path])
    assert (comparison.warnings, comparison.missing) == ((), ())


def test_a_config_that_differs_without_a_word_is_warned_of(tmp_path):
    """A file of conf/ was edited, or the runs were started from Python."""
    rates = {name: {"module": {"learning_rate": of}} for name, of in (("star", 0.1), ("rft", 0.2))}
    for name, config in rates.items():
        make(tmp_path, name, config=config)
    for cell, temperature in (("1", 0.5), ("2", 0.7)):
        config = {**rates["star"], "sampling": {"temperature": temperature}}
        make(tmp_path, "rest_em", cell=cell, config=config)
    more = "configs differ in more than the variant: "
    assert [*compare([tmp_path]).warnings] == [
        f"{more}module.learning_rate differs: 0.1 in rest_em (1), rest_em (2), star; 0.2 in rft",
        f"{more}sampling.temperature differs: 0.5 in rest_em (1); 0.7 in rest_em (2)",
    ]


def test_words_that_make_no_difference_are_not_warned_of(tmp_path):
    """Spelled otherwise, the default written out, the seed, or only faster."""
    for (variant, words), seed in product(
        (
            ("star", ["samples=16", "module.rate2=1", "sampling.batch_size=32"]),
            ("rft", ["+samples=16", "module.rate2=1.0", "task.max_digits=4"]),
        ),
        (0, 1),
    ):
        config = {
            "samples": 16,
            "module": {"rate2": 1 if variant == "star" else 1.0},
            "task": {"max_digits": 4, "seed": seed},
            "sampling": {"batch_size": 32 if variant == "star" else 1000},
        }
        make(tmp_path, variant, seed, overrides=words, config=config)
    assert compare([tmp_path]).warnings == ()


@pytest.mark.slow
def test_the_variants_as_they_are_give_no_warning():
    """differing.VARIED is what their files set."""
    from star_exp.config.compose import compose, conf_dir, plain

    rows = {}
    for path in sorted((conf_dir() / "variant").glob("*.yaml")):
        config = plain(compose([f"variant={path.stem}", "logger=none"]))
        run = Run(Path(), path.stem, 0, config["cell"], "finished", "", 1, config, {}, ({},))
        rows[path.stem] = [run]
    assert len(rows) > 10
    runs = [run for of in rows.values() for run in of]
    assert differing._settings(rows, runs) == []


def test_rows_that_measured_other_problems_are_not_compared(tmp_path):
    make(tmp_path, "star", 0)
    make(tmp_path, "rft", 0, data=DATA | {"test": "07e4 of 4"})
    comparison = compare([tmp_path])
    row = comparison.row("rft")
    assert (row.test, row.verdict) == (None, "not comparable: other problems")
    assert "7e57 of 4 in star" in only(comparison, "fingerprint of the data (test)")


@pytest.mark.parametrize(
    ("theirs", "verdict", "told"),
    [
        (range(20), "no significant difference", []),
        (range(1, 21), "no significant difference", ["of the 19 problems that both have"]),
        (range(10, 30), "not comparable: other problems", []),
    ],
)
def test_problems_of_other_tasks_are_compared_if_most_are_the_same(tmp_path, theirs, verdict, told):
    for seed in (0, 1):
        make(tmp_path, "star", seed, other_task=[*map(str, range(20))])
        make(tmp_path, "rft", seed, other_task=[*map(str, theirs)])
    comparison = compare([tmp_path], metric="ood/svamp/accuracy")
    assert comparison.row("rft").verdict == verdict
    assert [words for words in told if words in only(comparison, words)] == told
    assert len(comparison.warnings) == len(told)
    assert "That of other tasks: temperature 0.5." in comparison.notes


def test_seeds_that_drew_other_problems_of_a_task_are_not_compared(tmp_path):
    for variant, seed in product(("star", "rft"), (0, 1)):
        make(tmp_path, variant, seed, other_task=[str(10 * seed + n) for n in range(20)])
    comparison = compare([tmp_path], metric="ood/svamp/accuracy")
    assert comparison.row("rft").verdict == "not comparable: other problems"
    assert comparison.rows[0].values["ood/svamp/accuracy"].problems == 20


def test_seeds_with_problems_of_their_own_are_not_compared_but_have_an_interval(tmp_path):
    for seed in (0, 1):
        make(tmp_path, "star", seed, data=DATA | {"test": f"{seed}"})
        make(tmp_path, "rft", seed, data=DATA | {"test": f"{seed}"})
    comparison = compare([tmp_path])
    row = comparison.row("rft")
    assert (row.test, row.verdict) == (None, "not comparable: other problems")
    assert row.values["test/accuracy"].interval is not None


def test_a_difference_is_tested_by_problem_against_the_baseline(tmp_path):
    """8 problems of 10 are answered better: 2 of all 2 ** 8 swaps are as extreme, p = 1/128."""
    for seed in (0, 1):
        make(tmp_path, "star", seed, test=flags("0000000010"))
        make(tmp_path, "rft", seed, test=flags("1111111110"))
        make(tmp_path, "sft", seed, test=flags("1000000010"))
    comparison = compare([tmp_path])
    assert (comparison.baseline, comparison.row("star").verdict) == ("star", "baseline")
    better, same = comparison.row("rft"), comparison.row("sft")
    assert better.test is not None and same.test is not None
    assert better.test.difference == pytest.approx(0.8)
    assert (better.test.p, better.test.p_holm) == (2 / 2**8, 4 / 2**8)  # of two rows
    assert (same.test.p, same.test.p_holm) == (1.0, 1.0)
    assert better.verdict == "higher" and better.test.significant
    assert same.verdict == "no significant difference" and not same.test.significant
    assert [row.name for row in comparison.rows] == ["rft", "sft", "star"]  # the best first
    turned = compare([tmp_path], baseline="rft")
    assert turned.row("star").verdict == "lower"
    low, high = better.test.interval
    worse = turned.row("star").test
    assert worse is not None
    assert (-worse.interval[1], -worse.interval[0]) == pytest.approx((low, high), abs=0.11)


def test_what_one_seed_says_is_called_so(tmp_path):
    make(tmp_path, "star", 0, test=flags("0000000000"))
    make(tmp_path, "rft", 0, test=flags("1111111111"))
    comparison = compare([tmp_path])
    assert comparison.row("rft").verdict == "higher (one seed)"
    assert any("There is one seed of each row" in note for note in comparison.notes)


def test_a_row_has_the_same_interval_whatever_it_is_compared_with(tmp_path):
    for variant, seed in product(("rft", "sft", "star"), (0, 1, 2)):
        make(tmp_path, variant, seed, test=flags("110100111"[seed:]))
    of_all = compare([tmp_path]).row("star").values
    assert compare([tmp_path], variants=["star"]).row("star").values == of_all


def test_a_small_p_is_not_enough_where_seeds_disagree(tmp_path):
    """Seed 1 is as bad as the baseline: another draw of seeds may show no difference."""
    for seed, of in ((0, "11111111"), (1, "00000000")):
        make(tmp_path, "star", seed, test=flags("00000000"))
        make(tmp_path, "rft", seed, test=flags(of))
    row = compare([tmp_path]).row("rft")
    assert row.test is not None
    assert row.test.p_holm == 2 / 2**8
    assert row.test.interval[0] <= 0.0
    assert row.verdict == "no significant difference"


def test_at_equal_compute_each_run_is_at_its_last_iteration_within_the_budget(tmp_path):
    dev = [flags(of) for of in ("0000", "1000", "1100", "1110", "1111")]
    make(tmp_path, "star", dev=dev, tokens=100)  # 400 tokens in the end
    make(tmp_path, "rft", 0, dev=dev[:3], tokens=170)  # 340
    make(tmp_path, "rft", 1, dev=dev[:4], tokens=130)  # 390
    make(tmp_path, "base", dev=dev[:1])  # none
    comparison = compare([tmp_path])
    tokens, flops = comparison.equal
    assert (tokens.axis, tokens.budget) == ("generated_tokens", 340)
    assert (flops.axis, flops.budget) == ("flops", 3400)
    found = {at.row: (dict(at.iterations), at.value.mean) for at in tokens.rows}
    assert found == {
        "star": ({0: 3}, 0.75),
        "rft": ({0: 2, 1: 2}, 0.5),
        "base": ({0: 0}, 0.0),
    }
    text = tables.markdown(comparison)
    assert "\n## At equal compute: 340 generated tokens\n" in text
    assert "dev/accuracy (n = 4 problems) at the largest budget" in text


def test_a_row_that_is_not_at_equal_compute_is_missing(tmp_path):
    make(tmp_path, "star", dev=[RIGHT] * 3, tokens=100)
    folder = make(tmp_path, "rft", dev=[RIGHT] * 3, tokens=1000)
    results = json.loads((folder / "results.json").read_text())
    for line in results["iterations"][:2]:
        del line["dev/accuracy"]
    write_json(folder / "results.json", results)
    assert compare([tmp_path]).missing == (
        *(
            f'rft: left out of "At equal compute: {budget}", since some run of it has no '
            "dev/accuracy within that budget"
            for budget in ("200 generated tokens", "2.00e3 FLOPs")
        ),
    )


def test_a_budget_that_is_missed_by_a_hair_is_not_missed(tmp_path):
    dev = [flags("0000"), flags("1111")]
    make(tmp_path, "star", dev=dev, tokens=1000)
    make(tmp_path, "rft", dev=dev, tokens=1015)
    make(tmp_path, "sft", dev=dev, tokens=1025)
    tokens, _ = compare([tmp_path]).equal
    found = {at.row: at.iterations[0] for at in tokens.rows}
    assert found == {"star": 1, "rft": 1, "sft": 0}


def test_a_curve_is_the_mean_of_seeds_where_all_have_been(tmp_path):
    make(tmp_path, "star", 0, dev=[flags("0000"), flags("1000"), flags("1111")], tokens=100)
    make(tmp_path, "star", 1, dev=[flags("0000"), flags("1110")], tokens=200)
    curve = compare([tmp_path]).rows[0].curves["dev/accuracy"]
    assert curve.mean == (0.0, 0.5)
    assert curve.x == {
        "iteration": (0, 1),
        "generated_tokens": (0, 150),
        "flops": (0, 1500),
    }
    assert curve.band == "95% interval"
    assert (curve.low[0], curve.high[0]) == metrics.wilson_interval(0, 4)
    assert curve.low[1] < 0.5 < curve.high[1]


def test_what_no_rollout_gives_has_the_range_of_seeds_for_a_band(tmp_path):
    for seed, covered in ((0, 0.25), (1, 0.75)):
        folder = make(tmp_path, "star", seed, dev=[RIGHT] * 3)
        results = json.loads((folder / "results.json").read_text())
        for line in results["iterations"][1:]:
            line |= {"train/coverage": covered}
        results["iterations"][2]["train/balance"] = 0.5  # once: no curve
        write_json(folder / "results.json", results)
    drawn = compare([tmp_path]).rows[0].curves
    assert {*drawn} == {"dev/accuracy", "train/coverage"}
    curve = drawn["train/coverage"]
    assert (curve.x["iteration"], curve.mean) == ((1, 2), (0.5, 0.5))
    assert (curve.low, curve.high) == ((0.25, 0.25), (0.75, 0.75))
    assert curve.band == "range of seeds"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"metric": "test/acuracy"}, "there is no 'test/acuracy'; did you mean 'test/accuracy'"),
        ({"baseline": "stra"}, "no finished 'stra'; did you mean 'star'"),
        ({"variants": ["rtf"]}, "there is no 'rtf'; did you mean 'rft'"),
    ],
)
def test_what_there_is_not_is_refused_with_what_is_near(tmp_path, options, told):
    make(tmp_path, "star")
    make(tmp_path, "rft")
    with pytest.raises(UserError, match=told):
        compare([tmp_path], **options)


def test_only_some_variants_are_compared_if_they_are_named(tmp_path):
    for variant in ("star", "rft", "sft"):
        make(tmp_path, variant)
    comparison = compare([tmp_path], variants=["rft", "sft"])
    assert ({row.name for row in comparison.rows}, comparison.baseline) == ({"rft", "sft"}, "rft")
    comparison = compare([tmp_path], variants=["rft"], baseline="star")
    assert ({row.name for row in comparison.rows}, comparison.baseline) == ({"rft", "star"}, "star")


def test_a_row_is_chosen_by_its_name_and_rows_by_their_variant(tmp_path, capsys):
    make(tmp_path, "rft", cell="1")
    make(tmp_path, "rft", cell="2", overrides=["samples=16", "data.x=1"])
    make(tmp_path, "star")
    out = ["--out", str(tmp_path / "out")]
    for words, expected in (
        ("rft", {"rft"}),
        ("rft, samples=16, data.x=1,star", {"rft, samples=16, data.x=1", "star"}),
    ):
        assert main(["report", str(tmp_path), "--variants", words, "--problems", "0", *out]) == 0
        with (tmp_path / "out" / "report.csv").open(newline="") as file:
            assert {row["row"] for row in csv.DictReader(file)} == expected
    make(tmp_path, "sft", cell="3", overrides=["a=1"])
    make(tmp_path, "sft", cell="4", overrides=["a=2"])
    rows = compare([tmp_path], variants=["sft"]).rows
    assert {row.name for row in rows} == {"sft, a=1", "sft, a=2"}


def test_values_are_said_in_few_characters():
    assert [
        tables.said(*of)
        for of in (
            *((0.84, "share"), (1_463_751, "tokens"), (9_999, "tokens"), (2.0108e13, "FLOP")),
            *((0.0, "FLOP"), (95.0, "s"), (622.4, "s"), (11_520.0, "s"), (1440, "steps")),
        )
    ] == ["84.0%", "1.46M", "9999", "2.01e13", "0", "95 s", "10.4 min", "3.2 h", "1440"]
    assert [
        tables.said(*of)
        for of in (
            *((999_960, "tokens"), (9999.7, "steps"), (-0.0002, "share"), (3.6e6, "s")),
            (0.8225 - 1e-12, "share"),
        )
    ] == ["1M", "10k", "0.0%", "1000 h", "82.3%"]
    assert tables._difference(-0.0002, (-0.01, 0.0), "share") == "+0.0 (-1.0 to +0.0)"


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("star", ["star"]),
        ("star_without_rationalization", ["star_without_", "rationalization"]),
        ("bstar_temperature (lr=0.1)", ["bstar_", "temperature", "(lr=0.1)"]),
        ("an_unbreakablylongname", ["an_", "unbreakablylongname"]),
    ],
)
def test_a_long_name_is_broken_where_words_end(name, lines):
    assert tables._narrowed(name, 15).split("\n") == lines


def test_the_files_say_the_same_as_the_comparison(tmp_path):
    for variant, seed in product(("star", "rest_em"), (0, 1)):
        make(tmp_path, variant, seed, test=flags("1100" if variant == "star" else "1110"))
    make(tmp_path, "rest_em", 0, cell="#2", overrides=["task.path=50%_{a}|~^\\&$"])
    out = tmp_path / "out"
    comparison = compare([tmp_path])
    out.mkdir()
    tables.write(comparison, out)
    text = (out / "report.md").read_text()
    head, line, *_ = [each for each in text.splitlines() if each.startswith("| ")]
    assert head.startswith(
        "| variant | seeds | test accuracy (95% interval) | difference in points"
    )
    assert re.sub(r"\\\|", "", line).count("|") == head.count("|")
    assert "n = 4 problems" in text and "seeds (1 to 2 a row, of 0, 1)" in text
    assert "greedy, at most 64 new tokens" in text and "no significant difference" in text
    assert "k = 4 samples of each problem, temperature 0.7, top_p 0.9" in text
    assert "## Warnings" in text and "## Missing" in text and "## At equal compute" in text
    assert r"task.path=50%_{a}\|~^\&$" in text
    with (out / "report.csv").open(newline="") as file:
        found = {(row["row"], row["metric"]): row for row in csv.DictReader(file)}
    star = found["star", "test/accuracy"]
    assert (float(star["mean"]), star["verdict"], star["seeds"]) == (0.5, "baseline", "0 1")
    assert float(found["star", "cost/flops"]["mean"]) == 1000
    assert float(found["rest_em", "test/accuracy"]["difference"]) == pytest.approx(0.25)
    with (out / "runs.csv").open(newline="") as file:
        runs = [*csv.DictReader(file)]
    assert len(runs) == 5
    assert {run["test/accuracy"] for run in runs if run["row"] == "rest_em"} == {"0.75"}


def test_the_latex_table_is_balanced_and_escaped(tmp_path):
    for seed in (0, 1):
        make(tmp_path, "star", seed, test=flags("0" * 9))
        make(tmp_path, "rest_em", seed, cell="#1", test=flags("1" * 9))
    words = ["task.path=50%_{a}|~^\\&$"]
    make(tmp_path, "rest_em", cell="#2", test=flags("1" + "0" * 8), overrides=words)
    make(tmp_path, "sft", test=flags("1" * 9))
    text = tables.latex(compare([tmp_path]))
    assert r"rest\_em, task.path=50\%\_\{a\}|\textasciitilde{}\textasciicircum{}" in text
    lines = {line.partition(" & ")[0]: line for line in text.splitlines() if " & " in line}
    assert r"\textbf{+100.0 (+100.0 to +100.0)}" in lines[r"rest\_em"]
    assert "& higher &" in lines[r"rest\_em"]
    assert "textbf" not in lines["sft"] and "& higher (one seed) &" in lines["sft"]
    unsure = next(line for name, line in lines.items() if "task.path" in name)
    assert "textbf" not in unsure and "& no significant difference &" in unsure
    assert "& baseline &" in lines["star"]
    assert "Differences are from the baseline, star." in text and "Bold: a difference" in text
    bare = re.sub(r"\\[&%$#_{}\\]", "", text)
    assert bare.count("{") == bare.count("}")
    assert bare.count("$") % 2 == 0
    assert not re.search(r"[#_~^]", bare) and "%" not in bare.partition("\n")[2]
    body = re.search(r"\\midrule\n(.*)\\bottomrule", text, re.DOTALL)
    assert body is not None
    columns = re.search(r"begin\{tabular\}\{(\w+)\}", text)
    assert columns is not None
    for line in body[1].splitlines():
        assert line.endswith(r" \\")
        assert len(re.findall(r"(?<!\\)&", line)) == len(columns[1]) - 1


def test_many_rows_are_drawn_each_in_its_own_way(tmp_path):
    for number in range(12):
        make(tmp_path, f"variant{number}", dev=[flags("0000"), flags("1000")])
    comparison = compare([tmp_path], title="costs $1 or $_2")
    styles = curves.styles(comparison)
    assert len({(style["color"], style["linestyle"]) for style in styles.values()}) == 12
    curves.draw(comparison, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_runs_measured_once_have_no_curve_and_still_a_picture(tmp_path):
    make(tmp_path, "base", dev=[RIGHT])
    comparison = compare([tmp_path])
    assert comparison.rows[0].curves == {}
    curves.draw(comparison, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_of_it_imports_torch():
    code = "import sys, star_exp.report, star_exp.report.page; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_the_command_compares_two_real_runs(small_config, tmp_path, capsys, without_curves):
    from star_exp.run import run

    for variant in ("star", "rft"):
        words = [f"variant={variant}", "seed=0"]
        run(small_config(tmp_path / "runs" / variant, *words), words)
    out = tmp_path / "paper"
    assert main(["report", str(tmp_path / "runs"), "--out", str(out), "--title", "Sums [1]"]) == 0
    printed = capsys.readouterr().out
    assert "Sums [1]" in printed and "no significant" in printed
    names = ("report.md", "report.tex", "report.csv", "runs.csv", "curves.png", "report.html")
    assert {path.name for path in out.iterdir()} == {*names}
    with (out / "report.csv").open(newline="") as file:
        found = {(row["row"], row["metric"]): row for row in csv.DictReader(file)}
    for variant in ("star", "rft"):
        lines = (tmp_path / "runs" / variant / "metrics.jsonl").read_text().splitlines()
        final = json.loads(lines[-1])
        for metric in ("test/accuracy", "dev/accuracy", "cost/flops"):
            assert float(found[variant, metric]["mean"]) == pytest.approx(final[metric])
        assert int(found[variant, "test/accuracy"]["problems"]) == final["test/problems"]
