"""A report that is longer than a screen is paged on a terminal, and nowhere else."""

from __future__ import annotations

import io
import os

import pytest

from kho_inspect.cli.main import run
from tests.support.cli import DTB, DUMP


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stdout", "args", "is_paged"),
    [
        (Terminal(), ["--full"], True),
        (io.StringIO(), ["--full"], False),
        (Terminal(), [], False),
        (Terminal(), ["--full", "--json"], False),
    ],
)
def test_only_the_full_report_on_a_terminal_is_paged(
    stdout: io.StringIO, args: list[str], is_paged: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    paged: list[str] = []
    monkeypatch.setattr("pydoc.pager", paged.append)
    monkeypatch.setattr("sys.stdout", stdout)
    monkeypatch.setattr("os.environ", {**os.environ, "TERM": "dumb"})
    assert run(["show", DUMP, DTB, *args]) == 0
    assert bool(paged) == is_paged
    shown = "".join(paged) if is_paged else stdout.getvalue()
    assert "capture" in shown
    assert (stdout.getvalue() == "") == is_paged
