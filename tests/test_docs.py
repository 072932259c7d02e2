"""The page for users with a domain of their own: its code and commands, as they stand there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "your_own_task.md"


@pytest.mark.slow
def test_your_own_domain_works_word_by_word(tmp_path):
    blocks = re.findall(r"```(python|sh)\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (script,) = (text for kind, text in blocks if kind == "python")
    (tmp_path / "make_market.py").write_text(script)
    here = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{here}{os.pathsep}{os.environ['PATH']}"}
    printed = []
    for command in (text for kind, text in blocks if kind == "sh"):
        done = subprocess.run(
            ["bash", "-ec", command], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        printed.append(done.stdout)
    _, checked, ran, shown, asked, said = printed
    for table in (checked, asked, said):
        assert re.search(r"train.*1\d\d\d.*100\.0%.*0\.0%.*0\.0%", table)
    assert re.search(r"exemplars.*150.*100\.0%", checked)
    first, last = (float(found) for found in re.findall(r"dev accuracy ([\d.]+)%", ran)[::3])
    assert last > first
    assert "wool" in shown
