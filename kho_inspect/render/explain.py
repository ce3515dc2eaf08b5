"""Rules explained, out of their docstrings."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from kho_inspect.render.json import SCHEMA_VERSION
from kho_inspect.rules.catalogue import Rule

if TYPE_CHECKING:
    from rich.console import Console

SECTIONS = ("Matters", "Causes", "Enforced by")


def sections(rule: Rule) -> dict[str, str]:
    """The docstring's labelled paragraphs, each on one line."""
    body = rule.explanation.partition("\n")[2]
    labels = "|".join(SECTIONS)
    pieces = re.split(rf"^({labels}):", body, flags=re.MULTILINE)
    return {
        label: " ".join(text.split())
        for label, text in zip(pieces[1::2], pieces[2::2], strict=True)
    }


def print_rules(console: Console, rules: Iterable[Rule]) -> None:
    """``KHO204  fatal`` and everything that is known of it, of each."""
    from rich.text import Text

    from kho_inspect.render.console import is_endless

    for number, rule in enumerate(rules):
        if number:
            console.print()
        head = Text.assemble((rule.code, "bold"), f"  {rule.severity.label}  {rule.title}")
        console.print(head, soft_wrap=True)
        for label, text in {**sections(rule), "What to do": rule.hint}.items():
            words = textwrap.fill(
                f"{label}: {text}",
                width=console.width if is_endless() else min(console.width, 78),
                initial_indent="  ",
                subsequent_indent="      ",
            )
            console.print(Text(words), soft_wrap=True)


def explain_document(rules: Iterable[Rule]) -> dict[str, Any]:
    """``explain --json``."""
    return {
        "schema_version": SCHEMA_VERSION,
        "rules": [
            {
                "code": rule.code,
                "severity": rule.severity.label,
                "name": rule.check.__name__,
                "checks": rule.title,
                "matters": sections(rule)["Matters"],
                "causes": sections(rule)["Causes"],
                "enforced_by": sections(rule)["Enforced by"],
                "hint": rule.hint,
                "needs": [need.name.lower() for need in rule.needs],
            }
            for rule in rules
        ],
    }
