#!/usr/bin/env python3
"""Change one operator at a time in a copy of the package, and count the changes that tests notice.

    pip install -e '.[mutation]'
    python tests/mutation/run.py --sample 150 --seed 1
    python tests/mutation/run.py --sample 20 --seed 2 rules memory/lime.py

cosmic-ray lists the changes, and makes them. A sample is of places in the source; at each of them
one of its changes is drawn. First all tests run once, save those in ``APART``, and coverage tells
which of them run which lines. A change is given to those that run its lines, the fastest first, up
to the first failure and for about ``--seconds``; one of a line that is run by the import alone to
those that run its module, and to the one that reads the constants of all modules. A run that takes
five times as long as without a change is killed, and so counted. Exit status: 1 when a change
survived, 2 when the unchanged package fails.
"""

from __future__ import annotations

import argparse
import ast
import compileall
import json
import os
import random
import resource
import shutil
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from py_compile import PycInvalidationMode

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from cosmic_ray.ast import ast_nodes, get_ast_from_path
from cosmic_ray.mutating import mutate_and_test
from cosmic_ray.plugins import get_operator, operator_names
from cosmic_ray.testing import run_tests
from cosmic_ray.work_item import MutationSpec, TestOutcome, WorkerOutcome
from coverage import CoverageData

from tests.mutation import chosen  # needs the path above
from tests.support.captures import HOME

REPO = Path(__file__).resolve().parents[2]
PACKAGE = Path("kho_inspect")
ROOMS = ["walk", "decoders", "ownership", "rules", "memory", "recover"]
APART = ("mutation", "bench", "fuzz", "test_fuzz.py", "cli/test_endings.py", "test_readme.py")
TABLE = "tests/test_limits.py::test_no_bound_of_work_changes_unnoticed"
"""The test that reads constants of every module, and so runs no line of theirs."""
NO_BEHAVIOUR = ("test_architecture.py", "test_floors.py", "test_quality.py")
"""Neither: tests of the tree, and those that take too long to run for each change."""
PYTEST = f"{sys.executable} -m pytest -q -p no:cacheprovider -p tests.mutation.chosen --tb=no "
FAILURES = ("FAILED ", "ERROR ")
SAME = ("_Is_Eq", "_IsNot_NotEq")
"""Changes that mean the same for None and for members of an Enum."""
SWITCHES = {"slots", "frozen", "strict"}
"""Keywords that change nothing where the code is right."""
MEMORY = 8 << 30
"""Bytes that a run may allocate."""


def mutants(modules: Sequence[Path]) -> Iterator[MutationSpec]:
    """Every change but those that nothing can notice: :data:`SAME`, and where ``idle`` says."""
    classes = {name: get_operator(name) for name in operator_names()}
    operators = [(name, made()) for name, made in classes.items() if not made.arguments()]
    operators = [(name, operator) for name, operator in operators if not name.endswith(SAME)]
    for module in modules:
        nodes = list(ast_nodes(get_ast_from_path(module)))
        spared = idle(module.read_text())
        for name, operator in operators:
            positions = (place for node in nodes for place in operator.mutation_positions(node))
            for occurrence, (start, end) in enumerate(positions):
                if not any(first <= start < last for first, last in spared):
                    yield MutationSpec(module, name, occurrence, start, end)


def idle(source: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Where annotations, and switches for checks and for memory, begin and end: (line, column)."""
    nodes = list(ast.walk(ast.parse(source)))
    found = [getattr(node, name, None) for node in nodes for name in ("annotation", "returns")]
    found += [node for node in nodes if isinstance(node, ast.keyword) and node.arg in SWITCHES]
    return [
        ((one.lineno, one.col_offset), (one.end_lineno or 0, one.end_col_offset or 0))
        for one in found
        if isinstance(one, ast.expr | ast.keyword)
    ]


def sample(found: Iterator[MutationSpec], size: int, seed: int) -> list[MutationSpec]:
    """One change at each of some places; all of them where there are fewer."""
    places = defaultdict(list)
    for one in found:
        places[one.module_path, one.start_pos].append(one)
    draw = random.Random(seed)
    return [draw.choice(places[at]) for at in draw.sample(sorted(places), min(size, len(places)))]


class Suite:
    """The tests, with how long each takes and what it runs. Exits where one of them fails."""

    def __init__(self, within: Sequence[str]) -> None:
        left_out = [f"--ignore=tests/{name}" for name in (*APART, *NO_BEHAVIOUR)]
        traced = f"{PYTEST} --hypothesis-seed=0 --cov={PACKAGE} --cov-context=test --cov-report="
        os.environ[chosen.TIMES] = "times.json"
        outcome, output = run_tests(" ".join((traced, "-n auto", *left_out, *within)), 4 * 3600)
        del os.environ[chosen.TIMES]
        if outcome is not TestOutcome.SURVIVED:
            print(output, "The unchanged package fails.", sep="\n", file=sys.stderr)
            raise SystemExit(2)
        self.seconds: dict[str, float] = json.loads(Path("times.json").read_text())
        self._data = CoverageData()
        self._data.read()

    def of(self, mutant: MutationSpec, most: float) -> list[str]:
        """The fastest of those that run the place of a change, for about ``most`` seconds.

        Their node ids.
        """
        known = self._data.contexts_by_lineno(str(mutant.module_path.resolve()))
        lines = range(mutant.start_pos[0], mutant.end_pos[0] + 1)
        names = {name for line in lines for name in known.get(line, ())} - {""}
        names = names or {f"{TABLE}|run", *(name for run_by in known.values() for name in run_by)}
        tests = {name.rpartition("|")[0] for name in names} & self.seconds.keys()
        ordered = sorted(tests, key=lambda test: self.seconds[test])
        begun = accumulate((self.seconds[test] for test in ordered), initial=0.0)
        return [test for test, at in zip(ordered, begun, strict=False) if at < most]


def notice(mutant: MutationSpec, suite: Suite, most: float) -> tuple[str | None, str]:
    """What noticed a change, and the change as a diff."""
    tests = suite.of(mutant, most)
    Path("list.txt").write_text("\n".join(tests))
    os.environ[chosen.LIST] = "list.txt"
    files = dict.fromkeys(test.partition("::")[0] for test in tests)
    limit = 60 + 5 * sum(suite.seconds[test] for test in tests)
    done = mutate_and_test([mutant], f"{PYTEST} --hypothesis-seed=0 -x {' '.join(files)}", limit)
    if done.worker_outcome is not WorkerOutcome.NORMAL:
        raise SystemExit(done.output)
    if not done.is_killed:
        return None, done.diff
    lines = (done.output or "no output").splitlines()
    return next((line for line in lines if line.startswith(FAILURES)), lines[-1]), done.diff


def run(given: argparse.Namespace) -> int:
    """Test a sample, in a working directory that is a copy of the tree."""
    within = [PACKAGE / name for name in given.within]
    modules = [one for at in within for one in ([at] if at.suffix else sorted(at.glob("*.py")))]
    chosen = sample(mutants(modules), given.sample, given.seed)
    suite = Suite(given.tests)
    totals: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for number, mutant in enumerate(chosen, 1):
        noticed, diff = notice(mutant, suite, given.seconds)
        kind = mutant.operator_name.partition("/")[2]
        totals[kind.partition("_")[0]][noticed is None] += 1
        place = f"{mutant.module_path}:{mutant.start_pos[0]}"
        print(f"{number}/{len(chosen)} {place} {kind}: {noticed or 'SURVIVED'}", flush=True)
        if noticed is None:
            print(diff, flush=True)
    for kind, (killed, survived) in sorted(totals.items()):
        print(f"{kind:30} {killed:4} killed {survived:4} survived")
    killed = sum(row[0] for row in totals.values())
    print(f"{killed} of {len(chosen)} killed: {killed / len(chosen):.0%}")
    return int(killed < len(chosen))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("within", nargs="*", default=ROOMS, help="room, or room/module.py")
    parser.add_argument("--sample", type=int, default=150, metavar="N", help="places")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tests", nargs="+", default=["tests"], metavar="PATH", help="not all")
    parser.add_argument("--seconds", type=float, default=120, help="of tests for each change")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, REPO.name)
        shutil.copytree(REPO, copy, ignore=shutil.ignore_patterns(".*[a-z]", "__pycache__"))
        os.chdir(copy)
        # The tests write no byte code, and what is there counts only for the very same source.
        compileall.compile_dir(PACKAGE, quiet=1, invalidation_mode=PycInvalidationMode.CHECKED_HASH)
        os.environ |= {"PYTHONPATH": str(copy), "KHO_CAPTURES": str(HOME), "TMPDIR": folder}
        resource.setrlimit(
            resource.RLIMIT_DATA, (MEMORY, resource.getrlimit(resource.RLIMIT_DATA)[1])
        )
        return run(given)


if __name__ == "__main__":
    sys.exit(main())
