"""The house of DESIGN.md: imports go downward only, and each dependency has its one door."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

import kho_inspect

HOME = Path(kho_inspect.__file__).parent
PACKAGE = "kho_inspect"
MAX_LINES = 420

FLOORS: tuple[frozenset[str], ...] = (
    frozenset({"__main__"}),
    frozenset({"cli"}),
    frozenset({"__init__"}),
    frozenset({"recover"}),
    frozenset({"render"}),
    frozenset({"inspection"}),
    frozenset({"rules", "carve"}),
    frozenset({"decoders"}),
    frozenset({"ownership", "locate", "kernels", "kernel_log"}),
    frozenset({"walk"}),
    frozenset({"memory", "fdt"}),
    frozenset({"layouts", "model"}),
    frozenset({"geometry", "intervals"}),
    frozenset({"abi", "limits"}),
    frozenset({"units", "errors"}),
)
"""Rooms from the top floor down. Rooms of one floor do not import each other."""

DECODER_HELPERS = frozenset({"context"})
"""Decoder modules that other decoders may import."""

DOORS = {"click": {"cli"}, "rich": {"cli", "render"}, "construct": {"layouts"}, "pyfdt": {"fdt"}}
"""Which rooms may import a dependency."""


def module_name(path: Path) -> str:
    parts = path.relative_to(HOME.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(HOME.rglob("*.py"))}


def room(module: str) -> str:
    """``kho_inspect.walk.radix`` → ``walk``; the package itself is ``__init__``."""
    return module.split(".")[1] if "." in module else "__init__"


def floor(module: str) -> int:
    return next(level for level, rooms in enumerate(FLOORS) if room(module) in rooms)


@cache
def imported(module: str) -> frozenset[str]:
    """Every module that ``module`` imports, by its full name: in functions and for types too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            source = node.module or ""
            for alias in node.names:
                if source == PACKAGE and alias.name == "__version__":
                    continue
                inner = f"{source}.{alias.name}"
                found.add(inner if inner in MODULES else source)
    return frozenset(found)


def ours(module: str) -> list[str]:
    return sorted(name for name in imported(module) if name.split(".")[0] == PACKAGE)


@pytest.mark.parametrize("module", MODULES)
def test_every_module_is_in_a_known_room(module: str) -> None:
    assert any(room(module) in rooms for rooms in FLOORS), "add its room to FLOORS"


@pytest.mark.parametrize("module", MODULES)
def test_imports_exist_and_go_downward(module: str) -> None:
    for name in ours(module):
        assert name in MODULES, f"{module} imports {name}, which is no module"
        below = floor(name) > floor(module) or room(name) == room(module)
        assert below, f"{module} ({room(module)}) imports {name} ({room(name)})"


def test_no_module_imports_itself_by_way_of_others() -> None:
    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " → ".join([*way, module])
        if module not in done:
            for name in ours(module):
                visit(name, (*way, module))
            done.add(module)

    for module in MODULES:
        visit(module, ())


@pytest.mark.parametrize("module", [name for name in MODULES if room(name) == "layouts"])
def test_layouts_import_only_geometry_and_each_other(module: str) -> None:
    assert {room(name) for name in ours(module)} <= {"layouts", "geometry"}


def test_rules_never_touch_memory() -> None:
    for module in MODULES:
        if room(module) == "rules":
            assert "memory" not in {room(name) for name in ours(module)}, module


def test_decoders_do_not_import_each_other() -> None:
    decoders = f"{PACKAGE}.decoders"
    for module in MODULES:
        if room(module) == "decoders" and module != f"{decoders}.registry":
            others = {name for name in ours(module) if room(name) == "decoders"}
            assert others <= {f"{decoders}.{name}" for name in DECODER_HELPERS}, module


@pytest.mark.parametrize("module", MODULES)
def test_each_dependency_has_its_door(module: str) -> None:
    for name in imported(module):
        rooms = DOORS.get(name.split(".")[0])
        assert rooms is None or room(module) in rooms, f"{module} imports {name}"


@pytest.mark.parametrize("module", MODULES)
def test_no_module_is_much_longer_than_400_lines(module: str) -> None:
    assert len(MODULES[module].read_text().splitlines()) <= MAX_LINES


@pytest.mark.parametrize("helper", ["builder", "dump_files", "kernel_builder"])
def test_the_second_opinion_stands_alone(helper: str) -> None:
    tree = ast.parse((Path(__file__).parent / "support" / f"{helper}.py").read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    assert not any(PACKAGE in ast.unparse(node) for node in imports)


TYPED = ("owner", "path", "kind")
"""Attributes that hold an owner, a path of structures, or the kind of a claim."""
TEXT_METHODS = ("startswith", "endswith", "split", "partition", "rpartition")


@pytest.mark.parametrize("module", MODULES)
def test_names_for_the_type_checker_alone_are_never_looked_up(module: str) -> None:
    """A function inside a function looks up its annotations when the outer one runs."""
    text = MODULES[module].read_text()
    assert "if TYPE_CHECKING:" not in text or "from __future__ import annotations" in text


@pytest.mark.parametrize(
    "module", [name for name in MODULES if room(name) not in ("render", "memory", "cli")]
)
def test_identity_is_not_compared_as_text(module: str) -> None:
    """A sub-node called like a file of LUO once hid what was wrong with that file."""
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        asked: list[ast.expr] = []
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            if any(isinstance(side, ast.JoinedStr) or is_text(side) for side in sides):
                asked = sides
        elif isinstance(node, ast.Attribute) and node.attr in TEXT_METHODS:
            asked = [node.value]
        for side in asked:
            held = isinstance(side, ast.Attribute) and side.attr in TYPED
            # The kind of an expectation is its key in the file.
            assert not held or ast.unparse(side) == "expectation.kind", ast.unparse(node)


def is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)
