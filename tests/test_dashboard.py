"""`star-exp dashboard`: the specification as W&B stores it, and what is sent to a server.

tests/reference/dashboard.json is made anew by `python -m tests.test_dashboard`; see what changed.
"""

import json
import re
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import wandb
from wandb.errors import CommError

from star_exp import dashboard
from star_exp.dashboard import SECTIONS, main, metrics_of, regex, specification
from star_exp.errors import UserError
from star_exp.files import write_json
from star_exp.metrics import METRICS, metric

SNAPSHOT = Path(__file__).parent / "reference" / "dashboard.json"
# One of each kind; the snapshot does not change when a metric is registered.
FEW = tuple(
    metric(name)
    for name in ("dev/accuracy", "dev/accuracy/digits=1", "dev/pass@8", "train/loss", "cost/flops")
)


# Which metric goes where


def test_every_registered_metric_has_one_panel_over_its_own_axis():
    """A metric that is in no section needs a pattern in star_exp.dashboard.SECTIONS."""
    own = [section for section in SECTIONS if section.axis is None]
    found = Counter(metric.name for section in own for metric in metrics_of(section))
    assert found == Counter(metric.name for metric in METRICS)


def test_no_section_is_empty():
    assert [section.name for section in SECTIONS if not metrics_of(section)] == []


def test_accuracy_is_seen_over_iterations_tokens_and_flops():
    axes = {
        panel.x
        for section in SECTIONS
        for panel in dashboard.panels(section)
        if panel.y == ["dev/accuracy"]
    }
    assert axes == {"iteration", "cost/tokens", "cost/flops"}


def test_losses_are_seen_over_optimizer_steps():
    (training,) = (section for section in SECTIONS if section.name == "Training")
    (loss,) = (panel for panel in dashboard.panels(training) if panel.y == ["train/loss"])
    assert loss.x == "trainer/global_step"


def test_wandb_finds_the_names_that_the_registry_means():
    for registered in METRICS:
        example = registered.name.replace("@*-*", "@16-4").replace("@*", "@16").replace("*", "a=1")
        assert metric(example) is registered
        assert re.search(regex(registered.name), example)
        assert not re.search(regex(registered.name), f"{example}/more")


def test_pass_at_k_leaves_out_pass_at_k_s_and_other_tasks():
    assert re.search(regex("dev/pass@*"), "dev/pass@16")
    assert not re.search(regex("dev/pass@*"), "dev/pass@16-4")
    assert not re.search(regex("ood/accuracy/*"), "ood/svamp/accuracy")


# The specification


def test_the_specification_is_as_it_was(monkeypatch):
    monkeypatch.setattr(dashboard, "METRICS", FEW)
    assert specification("me", "mine") == json.loads(SNAPSHOT.read_text())


def test_the_same_metrics_give_the_same_ids_and_none_twice():
    first, second = (json.dumps(specification("", "mine")) for _ in range(2))
    assert first == second
    panels = [each["__id__"] for each in workspace_panels(json.loads(first))]
    assert len(set(panels)) == len(panels) > len(METRICS)


def workspace_panels(made: dict[str, Any]) -> list[dict[str, Any]]:
    sections = made["workspace"]["section"]["panelBankConfig"]["sections"]
    return [panel for section in sections for panel in section["panels"]]


def test_lines_are_means_over_seeds_with_their_range():
    made = specification("", "mine")
    grouping = made["workspace"]["section"]["runSets"][0]["grouping"]
    assert grouping[0] == {"section": "config", "name": "config_hash_no_seed.value"}
    lines = [each for each in workspace_panels(made) if each["viewType"] == "Run History Line Plot"]
    assert {(line["config"]["groupAgg"], line["config"]["groupArea"]) for line in lines} == {
        ("mean", "minmax")
    }


# The command


@pytest.fixture
def logged_out(monkeypatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")

    def refuse(*_: Any) -> None:
        raise AssertionError("W&B is asked for something")

    monkeypatch.setattr(wandb, "Api", refuse)


def test_without_a_login_the_specification_is_written_and_nothing_sent(
    logged_out, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert main([]) == 0
    assert json.loads(Path("outputs/dashboard.json").read_text()) == specification("", "star-exp")
    said = capsys.readouterr()
    assert "outputs/dashboard.json" in said.out and "wandb login" in said.out
    assert said.err == ""


class Server:
    """Keeps views by kind, as W&B's does."""

    def __init__(self):
        self.views: dict[str, dict[str, Any]] = {}
        self.default_entity = "me"
        self.client = SimpleNamespace(app_url="https://wandb.example")

    def projects(self, entity: str) -> list[Any]:
        return [SimpleNamespace(name="mine")]

    def answer(self, api: Any, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        if "allViews" in query:
            found = [v for v in self.views.values() if v["type"] == variables["type"]]
            return {"project": {"allViews": {"edges": [{"node": view} for view in found]}}}
        key = variables.get("id") or f"id{len(self.views)}"
        self.views[key] = {**variables, "id": key, "project": {"name": "mine", "entityName": "me"}}
        return {"upsertView": {"view": self.views[key]}}


@pytest.fixture
def server(monkeypatch) -> Server:
    server = Server()
    dashboard._packages()
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setattr(wandb, "Api", lambda: server)
    for module in ("_graphql", "workspaces.internal", "reports.v2.interface"):
        monkeypatch.setattr(
            f"wandb_workspaces.{module}.execute_graphql", lambda *words: server.answer(*words)
        )
    return server


def test_with_a_login_both_are_saved_and_their_urls_printed(server, tmp_path, capsys):
    out = tmp_path / "made.json"
    assert main(["--project", "mine", "--out", str(out)]) == 0
    saved = {view["type"]: json.loads(view["spec"]) for view in server.views.values()}
    made = json.loads(out.read_text())
    assert saved == {"runs": made["report"], "project-view": made["workspace"]}
    assert {view["entityName"] for view in server.views.values()} == {"me"}
    said = capsys.readouterr()
    assert len(re.findall(r"^https://wandb\.example/me/mine\S+$", said.out, re.MULTILINE)) == 2
    assert said.err == ""


def test_the_same_command_again_takes_the_place_of_what_it_saved(server, tmp_path):
    for _ in range(2):
        main(["--project", "mine", "--out", str(tmp_path / "made.json")])
    assert len(server.views) == 2


def test_where_wandb_refuses_the_specification_is_written_all_the_same(
    server, tmp_path, monkeypatch
):
    def refuse(*_: Any) -> None:
        raise CommError("permission denied")

    monkeypatch.setattr(server, "answer", refuse)
    out = tmp_path / "made.json"
    with pytest.raises(UserError, match=r"permission denied.*--entity.*made\.json"):
        main(["--project", "theirs", "--out", str(out)])
    assert out.exists()


def test_a_missing_package_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "wandb_workspaces.reports.v2", None)
    with pytest.raises(UserError, match=r'pip install "star-exp\[dashboard\]"'):
        main(["--out", str(tmp_path / "made.json")])


if __name__ == "__main__":
    dashboard.METRICS = FEW
    write_json(SNAPSHOT, specification("me", "mine"))
