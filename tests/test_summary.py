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
