"""The lowest versions of pyproject.toml: what a newer one forgives, what reads them off.

``.ci/floors`` runs the whole suite at them; these are for what can be seen at any version.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.support.cli import REPO

LOWEST = REPO / ".ci" / "lowest.py"
CLI = sorted((REPO / "kho_inspect" / "cli").glob("*.py"))
PYPROJECT = """\
[build-system]
requires = ["setuptools>=68"]
[project]
name = "ours"
requires-python = ">=3.11"
dependencies = ["{requirement}"]
[project.optional-dependencies]
all = ["ours[some]"]
"""


def requirements() -> list[str]:
    """All that pyproject.toml asks for, but for our own extras."""
    declared = tomllib.loads((REPO / "pyproject.toml").read_text())
    project = declared["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    found = [*declared["build-system"]["requires"], *(one for group in groups for one in group)]
    return [one for one in found if not one.startswith(f"{project['name']}[")]


def lowest(*args: str, cwd: Path = REPO) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(LOWEST), *args], cwd=cwd, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("module", CLI, ids=lambda path: path.stem)
def test_check_does_not_die_on_a_click_whose_types_take_no_arguments(module: Path) -> None:
    """Before click 8.4 ``class Area(click.ParamType[Extent])`` is a TypeError at import."""
    tree = ast.parse(module.read_text())
    notes = {
        id(inner)
        for node in ast.walk(tree)
        for note in (getattr(node, "annotation", None), getattr(node, "returns", None))
        if isinstance(note, ast.expr)  # which is never evaluated
        for inner in ast.walk(note)
    }
    subscripts = [
        ast.unparse(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Subscript) and id(node) not in notes
    ]
    assert not [one for one in subscripts if re.match(r"click\.\w+\[|ParamType\[", one)]


def test_every_requirement_has_a_lowest_version() -> None:
    done = lowest()
    assert (done.returncode, done.stderr) == (0, "")
    floors = done.stdout.splitlines()
    assert len(floors) == len(requirements()) > 10
    for floor, requirement in zip(floors, requirements(), strict=True):
        name, version = floor.split(";")[0].split("==")
        assert re.fullmatch(rf"{name}(>=|==){re.escape(version)}([,;].*)?", requirement)
        assert floor.partition(";")[2] == requirement.partition(";")[2]


def test_the_lowest_python_is_the_one_that_is_declared() -> None:
    declared = tomllib.loads((REPO / "pyproject.toml").read_text())
    assert f">={lowest('--python').stdout.strip()}" == (
        declared["project"]["requires-python"].replace(">=", ">=python")
    )


@pytest.mark.parametrize("requirement", ["rich", "rich<15", "rich!=13.8", "rich~=13.7", "rich>13"])
def test_a_requirement_without_a_floor_is_refused(requirement: str, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(PYPROJECT.format(requirement=requirement))
    done = lowest(cwd=tmp_path)
    assert done.returncode == 1
    assert requirement in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("requirement", "floor"),
    [
        ("rich>=13.7", "rich==13.7"),
        ("rich>=13.7,<16", "rich==13.7"),
        ("rich[jupyter] >= 13.7, != 14.0", "rich==13.7"),
        ("rich==13.7", "rich==13.7"),
        ("rich>=13.7; python_version < '4'", "rich==13.7; python_version < '4'"),
    ],
)
def test_a_floor_is_read_from_what_declares_it(
    requirement: str, floor: str, tmp_path: Path
) -> None:
    (tmp_path / "pyproject.toml").write_text(PYPROJECT.format(requirement=requirement))
    assert lowest(cwd=tmp_path).stdout.splitlines() == ["setuptools==68", floor]
