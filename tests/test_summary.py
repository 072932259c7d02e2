"""What is printed of a run's iterations."""

from star_exp import summary


def test_a_share_is_said_with_its_groups_where_they_are_few():
    line = {"dev/accuracy": 0.5, "dev/accuracy/digits=10": 0.25, "dev/accuracy/digits=2": 0.75}
    assert summary.said(line, "dev/accuracy", 0) == "50.0% (digits=2 75%, digits=10 25%)"
    assert summary.said({"dev/accuracy": 0.5}, "dev/accuracy", 0) == "50.0%"
    many = {f"dev/accuracy/subject={n}": 0.1 for n in range(11)}
    assert summary.said({"dev/accuracy": 0.125, **many}, "dev/accuracy", 1) == "12.5%"


def test_a_table_has_columns_for_few_groups_only():
    few = {f"dev/accuracy/level={n}": 0.1 for n in range(5)}
    many = {f"dev/accuracy/subject={n}": 0.1 for n in range(11)}
    lines = [{"iteration": 0, "dev/accuracy": 0.5}]
    headings = [column.header for column in summary.table([lines[0] | few]).columns]
    assert headings == ["it", "dev", "level=0", "=1", "=2", "=3", "=4"]
    assert len(summary.table([lines[0] | many]).columns) == 2


def test_what_is_picked_from_k_is_no_row_of_pass_or_reward_at_k_s():
    line = {"dev/pass@4": 0.75, "dev/majority@4": 0.5, "dev/best_of_4/dpo": 0.6}
    more = {"dev/pass@4-4": 0.1, "dev/pass@64-4": 0.2, "dev/reward@4-4/dpo": 0.1}
    more |= {"dev/distinct_equations": 0.3}
    tables = [summary.picked(each, "dev") for each in (line, line | more)]
    for table in tables:
        assert [column.header for column in table.columns] == ["", "k=4"]
        assert [*table.columns[0].cells] == ["majority", "best by dpo", "any right"]
        assert [*table.columns[1].cells] == ["50.0%", "60.0%", "75.0%"]


def test_curves_show_the_several_right_ones_of_all_samples(tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr(
        summary, "_curve", lambda axes, lines, name, label, **style: drawn.setdefault(name, label)
    )
    names = ["generate/pass@8-4", "generate/pass@16-4", "generate/pass@16", "dev/pass@32-4"]
    lines = [{"iteration": 1, **dict.fromkeys(names, 0.5)}]
    head = {"variant": "star", "task": "addition", "model": "tiny", "seed": 0}
    summary.draw_curves(lines, tmp_path / "curves.png", head)
    assert {name: label for name, label in drawn.items() if "@" in name} == {
        "generate/pass@16-4": "4 different right ones of 16"
    }
    assert {"train/balance", "generate/distinct_equations"} < drawn.keys()
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    drawn.clear()
    summary.draw_curves([{"iteration": 0}], tmp_path / "curves.png", head)
    assert not [name for name in drawn if "@" in name]
