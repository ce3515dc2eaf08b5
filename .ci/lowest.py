"""The lowest versions that ./pyproject.toml allows, as constraints for pip; --python: of Python.

A floor stands there alone, in the requirement itself: this reads it, and refuses one that has none.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

REQUIREMENT = re.compile(
    r"(?P<name>[\w.-]+)(\[[\w,]+\])? *(>=|==) *(?P<version>[\w.]+) *(,[^;]*)?(?P<marker>;.*)?"
)


def lowest(requirement: str) -> str:
    """``click>=8.1.7`` → ``click==8.1.7``."""
    found = REQUIREMENT.fullmatch(requirement.strip())
    if found is None:
        raise SystemExit(f"no lowest version in {requirement!r}: write it as NAME>=VERSION")
    return f"{found['name']}=={found['version']}{found['marker'] or ''}"


def constraints(declared: dict[str, Any]) -> Iterator[str]:
    """One for each requirement, those of the build and of all extras included."""
    project = declared["project"]
    groups = [declared["build-system"]["requires"], project["dependencies"]]
    for group in [*groups, *project["optional-dependencies"].values()]:
        for requirement in group:
            if re.split(r"[\[<>=!~; ]", requirement)[0] != project["name"]:  # an extra of ours
                yield lowest(requirement)


def main() -> None:
    declared = tomllib.loads(Path("pyproject.toml").read_text())
    if sys.argv[1:] == ["--python"]:
        lines = [lowest(f"python{declared['project']['requires-python']}").replace("==", "")]
    else:
        lines = list(constraints(declared))
    sys.stdout.writelines(f"{line}\n" for line in lines)


if __name__ == "__main__":
    main()
