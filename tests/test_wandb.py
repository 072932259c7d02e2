"""What W&B gets, read back from its offline files with `wandb leet inspect`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import wandb

from star_exp import metrics
from star_exp.run import run
from tests.test_run import results
from tests.test_vstar import VSTAR


def records(folder: Path) -> list[dict]:
    """Every record of every fragment of a run, in the order of their starts."""
    found = []
    for fragment in sorted((folder / "wandb").glob("offline-run-*")):
        done = subprocess.run(
            [str(Path(sys.executable).with_name("wandb")), "leet", "inspect", "--json", fragment],
            capture_output=True,
            text=True,
            check=True,
        )
        found += [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return found


@pytest.fixture(scope="module")
def logged(small_config, tmp_path_factory) -> Path:
    """A run with W&B, interrupted after its first iteration and resumed: two fragments."""
    folder = tmp_path_factory.mktemp("wandb") / "run"
    words = ("logger=wandb", "tags=[mine]")  # offline by itself: nobody is logged in here
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder.parent))
        for name in ("WANDB_API_KEY", "WANDB_MODE", "NETRC"):
            patch.delenv(name, raising=False)
        run(small_config(folder, *words, "iterations=1"), [])
        run(small_config(folder, *words, "iterations=2"), [])
    return folder


def of_kind(logged: Path, kind: str) -> list[dict]:
    return [record for record in records(logged) if record["type"] == kind]


def test_leet_reads_the_run(logged):
    kinds = {record["type"] for record in records(logged)}
    assert {"run", "history", "summary"} <= kinds


def test_a_resumed_run_keeps_its_id_and_says_what_it_is(logged):
    manifest = json.loads((logged / "manifest.json").read_text())
    runs = of_kind(logged, "run")
    text = json.dumps(runs)
    assert len({fragment.name.rsplit("-", 1)[1] for fragment in fragments(logged)}) == 1
    assert fragments(logged)[0].name.endswith(manifest["run_id"])
    assert len(fragments(logged)) == 2
    for expected in ("star-arithmetic-tiny-s0", f"debug/{manifest['config_hash_no_seed']}", "mine"):
        assert expected in text


def fragments(logged: Path) -> list[Path]:
    return sorted((logged / "wandb").glob("offline-run-*"))


def test_the_history_holds_the_metrics_of_every_iteration(logged):
    rows = history(logged)
    by_iteration = {}
    for row in rows:
        if "iteration" in row and "dev/accuracy" in row:
            by_iteration[row["iteration"]] = row
    for line in results(logged)["iterations"]:
        logged_row = by_iteration[line["iteration"]]
        for name in ("dev/accuracy", "dev/tokens", "cost/flops"):
            assert logged_row[name] == pytest.approx(line[name])
    assert len([row for row in rows if "train/loss" in row]) == 10 + 12


def test_what_is_measured_of_the_last_model_comes_with_its_costs(logged):
    """Of each fit's end, in a row of its own: else no panel over tokens or FLOPs would show it."""
    late = [row for row in history(logged) if "test/accuracy" in row and row["iteration"]]
    lines = {line["iteration"]: line for line in results(logged)["iterations"]}
    assert [row["iteration"] for row in late] == [1, 2]
    for row in late:
        for name in ("cost/tokens", "cost/flops"):
            assert row[name] == lines[row["iteration"]][name] > 0


def history(logged: Path) -> list[dict]:
    return [record["history"]["item"] for record in of_kind(logged, "history")]


def test_steps_never_go_back_over_a_resume(logged):
    steps = [row["trainer/global_step"] for row in history(logged) if "trainer/global_step" in row]
    assert steps == sorted(steps)


def test_every_metric_is_defined_by_its_exact_name_and_axis(logged):
    defined = json.dumps(of_kind(logged, "metric"))
    for name in ("dev/accuracy", "generate/coverage", "dev/accuracy/digits=2", "train/loss"):
        assert f'"{name}"' in defined
        assert metrics.metric(name).axis in defined


def test_each_iteration_has_a_table_of_rollouts(logged):
    tables = [
        json.loads(path.read_text()) for path in (logged / "wandb").rglob("rollouts*.table.json")
    ]
    assert len(tables) == 3
    for table in tables:
        assert "text" in table["columns"] and 0 < len(table["data"]) <= 100
        correct = table["columns"].index("correct")
        assert {type(row[correct]) for row in table["data"]} == {bool}


def test_the_rationales_are_artifacts(logged):
    text = json.dumps(of_kind(logged, "artifact"))
    assert (
        "rationales-it1" in text and "rationales-it2" in text and "generate/00000.parquet" in text
    )


@pytest.mark.slow
@pytest.mark.usefixtures("without_curves")
@pytest.mark.parametrize("agent", [False, True], ids=["alone", "under an agent"])
def test_a_verifier_is_a_part_of_its_own_and_none_under_an_agent(
    agent, small_config, tmp_path, monkeypatch
):
    """An agent has one W&B run for all: a verifier's fit would log into it, and finish it."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    if agent:
        monkeypatch.setenv("WANDB_SWEEP_ID", "abcd1234")
        monkeypatch.setenv("WANDB_RUN_ID", "cell0000")
    run(small_config(tmp_path, *VSTAR, "iterations=2", "logger=wandb"), [])
    said = {}
    for fragment in tmp_path.rglob("offline-run-*"):
        (told,) = of_kind(fragment.parents[1], "run")
        said[fragment.name.rsplit("-", 1)[1]] = told["run"]["job_type"]
    mine = json.loads((tmp_path / "manifest.json").read_text())["run_id"]
    fit = json.loads((tmp_path / "verifier/iter_002/manifest.json").read_text())["run_id"]
    assert said == ({"cell0000": "train"} if agent else {mine: "train", fit: "verifier"})
    assert results(tmp_path)["final"]["dev/best_of_4/dpo"] >= 0


def test_no_run_stays_open(logged):
    assert wandb.run is None
