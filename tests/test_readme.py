"""Every ``$ kho-inspect …`` in the README is run, and must print what stands below it.

``KHO_UPDATE_GOLDEN=1 pytest tests/test_readme.py`` rewrites the outputs.
"""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import pytest

from tests.support.cli import REPO, kho_inspect

README = (REPO / "README.md").read_text()
SET_UP = "python3 -m venv .venv && .venv/bin/pip install -q -e '.[dev]' && "
TEST = ".venv/bin/python -m pytest -n auto"


def _examples() -> list[tuple[str, str]]:
    blocks = re.findall(r"^```console\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    found = []
    for block in blocks:
        for piece in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = piece.partition("\n")
            if command.startswith("kho-inspect "):
                found.append((command, output))
    return found


def _rewrite(command: str, old: str, new: str) -> None:
    path = REPO / "README.md"
    stripped = "".join(f"{line.rstrip()}\n" for line in new.splitlines())
    path.write_text(path.read_text().replace(f"$ {command}\n{old}", f"$ {command}\n{stripped}"))


def test_there_are_examples() -> None:
    assert len(_examples()) >= 4


@pytest.mark.parametrize(("command", "output"), _examples(), ids=[c for c, _ in _examples()])
def test_readme_shows_real_output(command: str, output: str, tmp_path: Path) -> None:
    (tmp_path / "samples").symlink_to(REPO / "samples")
    result = kho_inspect(*shlex.split(command)[1:], cwd=tmp_path)
    if os.environ.get("KHO_UPDATE_GOLDEN"):
        _rewrite(command, output, result.stdout)
        return
    shown = [line.rstrip() for line in output.rstrip("\n").split("\n")]
    real = [line.rstrip() for line in result.stdout.rstrip("\n").split("\n")]
    if shown[-1] == "…":  # cut for the README's sake
        shown, real = shown[:-1], real[: len(shown) - 1]
    assert shown == real
    assert result.status == ("--target" in command)  # the one example of a refusal


def test_the_two_commands_are_the_ones_ci_runs() -> None:
    ci = (REPO / ".ci" / "run").read_text()
    first, second = re.findall(r"^```sh\n(.*?)\n```", README, re.MULTILINE | re.DOTALL)[:2]
    assert first.startswith(SET_UP)
    assert second == TEST
    assert all(part.removeprefix("python3 -m ") in ci for part in [*SET_UP.split(" && ")[:2], TEST])


def test_readme_first_command_inspects_a_shipped_sample() -> None:
    first = re.search(r"^```sh\n(.*?)\n```", README, re.MULTILINE | re.DOTALL)
    assert first is not None
    command = shlex.split(first[1].removeprefix(SET_UP))
    assert command[0] == ".venv/bin/kho-inspect"
    assert kho_inspect(*command[1:]).status == 0


@pytest.mark.parametrize("kind", ["sh", "yaml"])
def test_the_ci_recipe_works(kind: str, tmp_path: Path) -> None:
    recipe = README[README.index("### In CI") :]
    block = re.search(rf"^```{kind}\n(.*?)\n```", recipe, re.MULTILINE | re.DOTALL)
    assert block is not None
    commands = [
        line.strip().removeprefix("- run: ")
        for line in block[1].splitlines()
        if line.strip().removeprefix("- run: ").startswith("kho-inspect ")
    ]
    assert len(commands) == 2
    (tmp_path / "samples").symlink_to(REPO / "samples")
    for command in commands:
        line, _, target = command.partition(" > ")
        result = kho_inspect(*shlex.split(line)[1:], cwd=tmp_path)
        assert (result.status, result.stderr) == (0, "")
        if target:
            (tmp_path / target).write_text(result.stdout)
