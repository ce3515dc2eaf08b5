#!/usr/bin/env python3
"""Change one operator at a time in a copy of the package, and count the changes that tests notice.

    pip install -e '.[mutation]'
    python tests/mutation/run.py --sample 150 --seed 1
    python tests/mutation/run.py --sample 20 --seed 2 rules memory/lime.py

cosmic-ray lists the changes, and makes them. A sample is of places in the source; at each of them
one of its changes is drawn. Tests of the module's room run first, up to the first failure; a change
that they pass is given to the other tests too, save those in ``APART`` (``--narrow``: it is not).
A run that takes five times as long as without a change is killed, and so counted. Exit status: 1
when a change survived, 2 when the unchanged package fails.
"""

from __future__ import annotations

import argparse
import ast
import compileall
import os
import random
import resource
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from py_compile import PycInvalidationMode

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from cosmic_ray.ast import ast_nodes, get_ast_from_path
from cosmic_ray.mutating import mutate_and_test
from cosmic_ray.plugins import get_operator, operator_names
from cosmic_ray.testing import run_tests
from cosmic_ray.work_item import MutationSpec, TestOutcome, WorkerOutcome

from tests.support.captures import HOME  # needs the path above

REPO = Path(__file__).resolve().parents[2]
PACKAGE = Path("kho_inspect")
TESTS = {
    "walk": ("walk", "test_limits.py", "rules/test_one_cause.py"),
    "decoders": ("decoders", "rules/test_rules.py"),
    "ownership": ("ownership", "test_fuzz_findings.py", "cli/test_selectors.py"),
    "rules": ("rules/test_rules.py", "rules", "cli/test_check_cli.py"),
    "memory": ("memory",),
    "recover": ("recover", "cli/test_content.py", "cli/test_selectors.py"),
}
"""The tests, below ``tests/``, that run first for a room."""
APART = ("mutation", "bench", "fuzz", "test_fuzz.py", "cli/test_endings.py", "test_readme.py")
NO_BEHAVIOUR = ("test_architecture.py", "test_floors.py", "test_quality.py")
"""Neither: tests of the tree, and those that take too long to run for each change."""
PYTEST = f"{sys.executable} -m pytest -x -q -p no:cacheprovider --hypothesis-seed=0 --tb=no "
FAILURES = ("FAILED ", "ERROR ")
MEMORY = 8 << 30
"""Bytes that a run may allocate."""


def mutants(modules: Sequence[Path]) -> Iterator[MutationSpec]:
    """Every change but those of annotations, which are not evaluated."""
    classes = {name: get_operator(name) for name in operator_names()}
    operators = [(name, made()) for name, made in classes.items() if not made.arguments()]
    for module in modules:
        nodes = list(ast_nodes(get_ast_from_path(module)))
        idle = unevaluated(module.read_text())
        for name, operator in operators:
            positions = (place for node in nodes for place in operator.mutation_positions(node))
            for occurrence, (start, end) in enumerate(positions):
                if not any(first <= start < last for first, last in idle):
                    yield MutationSpec(module, name, occurrence, start, end)


def unevaluated(source: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Where annotations begin and end: (line, column) pairs."""
    nodes = list(ast.walk(ast.parse(source)))
    found = [getattr(node, name, None) for node in nodes for name in ("annotation", "returns")]
    return [
        ((one.lineno, one.col_offset), (one.end_lineno or 0, one.end_col_offset or 0))
        for one in found
        if isinstance(one, ast.expr)
    ]


def sample(found: Iterator[MutationSpec], size: int, seed: int) -> list[MutationSpec]:
    """One change at each of some places; all of them where there are fewer."""
    places = defaultdict(list)
    for one in found:
        places[one.module_path, one.start_pos].append(one)
    draw = random.Random(seed)
    return [draw.choice(places[at]) for at in draw.sample(sorted(places), min(size, len(places)))]


def tests_of(module: Path) -> list[str]:
    """The test files of a module's room: those with its name first."""
    given = [Path("tests", name) for name in TESTS[module.parts[1]]]
    files = [one for at in given for one in (sorted(at.glob("test_*.py")) if at.is_dir() else [at])]
    files.sort(key=lambda file: module.stem not in file.stem)
    return [str(file) for file in dict.fromkeys(files)]


@cache
def limit(tests: frozenset[str]) -> float:
    """Seconds that a run of these tests may take; they must pass without a change."""
    begin = time.monotonic()
    outcome, output = run_tests(PYTEST + " ".join(sorted(tests)), 3600)
    if outcome is not TestOutcome.SURVIVED:
        print(output, "The unchanged package fails.", sep="\n", file=sys.stderr)
        raise SystemExit(2)
    return 60 + 5 * (time.monotonic() - begin)


def notice(mutant: MutationSpec, narrow: bool) -> tuple[str | None, str]:
    """What noticed a change, and the change as a diff."""
    wide = ["tests", *(f"--ignore=tests/{name}" for name in (*APART, *NO_BEHAVIOUR))]
    for tests in [tests_of(mutant.module_path), *([] if narrow else [wide])]:
        done = mutate_and_test([mutant], PYTEST + " ".join(tests), limit(frozenset(tests)))
        if done.worker_outcome is not WorkerOutcome.NORMAL:
            raise SystemExit(done.output)
        if done.is_killed:
            lines = (done.output or "no output").splitlines()
            return next((line for line in lines if line.startswith(FAILURES)), lines[-1]), done.diff
    return None, done.diff


def run(given: argparse.Namespace) -> int:
    """Test a sample, in a working directory that is a copy of the tree."""
    within = [PACKAGE / name for name in given.within]
    modules = [one for at in within for one in ([at] if at.suffix else sorted(at.glob("*.py")))]
    chosen = sample(mutants(modules), given.sample, given.seed)
    totals: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for number, mutant in enumerate(chosen, 1):
        noticed, diff = notice(mutant, given.narrow)
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
    parser.add_argument("within", nargs="*", default=list(TESTS), help="room, or room/module.py")
    parser.add_argument("--sample", type=int, default=150, metavar="N", help="places")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--narrow", action="store_true", help="run the tests of the room alone")
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
