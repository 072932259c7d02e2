"""sweeps/: W&B's own schema, every cell's config, and one run of each by the agent's command."""

import itertools
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

from star_exp.config.compose import compose, plain
from star_exp.config.validate import validate
from star_exp.metrics import metric
from tests.conftest import SMALL

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "sweeps").glob("*.yaml"))
SCHEMA = json.loads((ROOT / "tests/reference/wandb_sweep_schema.json").read_text())
README = (ROOT / "sweeps/README.md").read_text()

each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
Cell = dict[str, Any]


def read(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text())


def cells(sweep: dict[str, Any]) -> list[Cell]:
    """Every cell of a grid; of a search the two corners of what it searches."""
    choices = [
        node.get("values") or [node["value"]] if "min" not in node else [node["min"], node["max"]]
        for node in sweep["parameters"].values()
    ]
    names = [*sweep["parameters"]]
    if sweep["method"] == "grid":
        return [dict(zip(names, values, strict=True)) for values in itertools.product(*choices)]
    return [dict(zip(names, [each[at] for each in choices], strict=True)) for at in (0, -1)]


def words(sweep: dict[str, Any], cell: Cell) -> list[str]:
    """The command that W&B's agent starts for a cell (wandb_agent.py, _command_run)."""
    given = create_sweep_command_args({"args": {k: {"value": v} for k, v in cell.items()}})
    macros = {**given, "env": ["/usr/bin/env"], "program": [sweep["program"]]}
    found: list[str] = []
    for word in create_sweep_command([*sweep["command"]]):
        name = re.fullmatch(r"\$\{(.*)\}", str(word))
        found += macros[name[1]] if name else [str(word)]
    return found


@pytest.fixture
def agent(monkeypatch) -> None:
    """What an agent sets for the command that it starts."""
    monkeypatch.setenv("WANDB_SWEEP_ID", "abcd1234")
    monkeypatch.setenv("WANDB_RUN_ID", "cell0000")


@each_file
def test_a_sweep_keeps_to_the_schema_of_wandb(path):
    jsonschema.Draft7Validator(SCHEMA).validate(read(path))


def test_the_schema_refuses_what_is_none():
    with pytest.raises(jsonschema.ValidationError, match="bayess"):
        jsonschema.validate({**read(FILES[0]), "method": "bayess"}, SCHEMA)


@each_file
def test_every_cell_is_a_config_of_its_own_that_can_run(path, agent):
    sweep, names = read(path), set()
    of_one_seed = [cell for cell in cells(sweep) if cell["seed"] == 0]
    for cell in of_one_seed:
        env, program, run, *overrides = words(sweep, cell)
        assert [env, program, run] == ["/usr/bin/env", "star-exp", "run"]
        config = plain(compose(overrides))
        validate(config)
        assert (config["choices"]["variant"], config["seed"]) == (cell["variant"], 0)
        assert config["run_dir"].startswith("outputs/sweep-abcd1234/")
        names.add(config["run_dir"])
    assert len(names) == len(of_one_seed)


# What a run is built of, by constructors that know each key; sampling, judge and samples are not.
BUILT = ("task", "model", "module", "data", "trainer", "callbacks", "reward", "verifier")


@each_file
def test_every_parameter_changes_what_a_run_is_built_of(path, agent):
    """One that nothing reads would run the same thing again, in a cell of its own."""

    def built(cell: Cell) -> Cell:
        config = plain(compose(words(sweep, cell)[3:]))
        return {name: config[name] for name in BUILT}

    sweep = read(path)
    first, *others = cells(sweep)
    varied = {name: cell[name] for cell in others for name in cell if cell[name] != first[name]}
    assert len(varied) > 1
    for name, value in varied.items():
        assert built({**first, name: value}) != built(first) or name == "seed", name


@each_file
def test_the_metric_is_one_that_a_run_leaves_in_its_summary(path):
    final, _, name = read(path)["metric"]["name"].partition("/")
    assert final == "final" and metric(name).better == "up"
    assert read(path)["metric"]["goal"] == "maximize"


@each_file
def test_the_readme_names_the_sweep_and_its_number_of_runs(path):
    sweep = read(path)
    (runs,) = re.findall(rf"\| `{path.name}` \|.*\| (\d+) \|", README)
    assert int(runs) == sweep.get("run_cap", len(cells(sweep)))
    assert f"wandb sweep sweeps/{path.name} " in path.read_text()


def test_the_multiruns_of_the_readme_are_the_same_grids():
    commands = re.findall(r"^    star-exp run -m (.*)$", README, re.MULTILINE)
    multiruns = [expanded(shlex.split(command)) for command in commands]
    grids = [read(path) for path in FILES]
    grids = [cells(sweep) for sweep in grids if sweep["method"] == "grid"]
    assert sorted(multiruns, key=str) == sorted(grids, key=str)


def expanded(overrides: list[str]) -> list[Cell]:
    """The jobs of a multirun, by hand."""
    pairs = [word.split("=") for word in overrides]
    choices = [[yaml.safe_load(value) for value in values.split(",")] for _, values in pairs]
    names = [name for name, _ in pairs]
    return [dict(zip(names, each, strict=True)) for each in itertools.product(*choices)]


# Small enough for a test, whatever the sweep is of.
TINY = (
    *SMALL,
    *("task.min_digits=1", "task.max_digits=2", "model.seed_rationales=20", "model.steps=40"),
    *("iterations=2", "logger=wandb", "data.schedule.first=4"),
)
SAMPLED = ("callbacks.candidates.samples=4", "callbacks.candidates.final_splits=[dev]")
CHOSEN = ("callbacks.balance.problems=20", "callbacks.balance.temperatures=[0.7,1.0]")
REWARDED = tuple(
    f"reward.model.callbacks.{word}"
    for word in ("responses.problems=30", "responses.samples=4", "complete.completions=3")
)
SETTINGS: dict[str, tuple[str, ...]] = {
    "temperature": ("samples=4", *SAMPLED),
    "rationales_per_problem": SAMPLED,
    "balance_grid": ("samples=4", *SAMPLED, *CHOSEN, *REWARDED),
    "balance_fixed": ("samples=4", *SAMPLED, *REWARDED),
}


@pytest.mark.slow
@each_file
def test_the_agents_command_runs_and_leaves_the_metric(
    path, agent, base_cache, tmp_path, monkeypatch
):
    sweep = read(path)
    command = [*words(sweep, cells(sweep)[0]), *TINY, *SETTINGS.get(path.stem, ())]
    command.append(f"cache_dir={base_cache}")
    here = Path(sys.executable).parent
    for name in ("WANDB_API_KEY", "WANDB_MODE", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))  # nobody is logged in there
    monkeypatch.setenv("PATH", f"{here}:/usr/bin:/bin")
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    (fragment,) = tmp_path.glob("outputs/sweep-abcd1234/*/seed0/wandb/offline-run-*-cell0000")
    assert not [*base_cache.glob("reward-*/**/offline-run-*-cell0000")]  # the reward model's
    said = subprocess.run(
        [here / "wandb", "leet", "inspect", "--summary", "--json", fragment],
        capture_output=True,
        text=True,
        check=True,
    )
    results = json.loads((fragment.parents[1] / "results.json").read_text())
    name = sweep["metric"]["name"]
    assert json.loads(said.stdout)["summary"][name] == results["final"][name.removeprefix("final/")]
