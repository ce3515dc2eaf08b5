"""``explain``: what a rule checks, why it matters, who enforces it."""

from __future__ import annotations

import json

import click

from kho_inspect.cli import exit_codes


@click.command("explain")
@click.argument("codes", metavar="[CODE]...", nargs=-1)
@click.option("--all", "every", is_flag=True, help="All rules.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of text.")
def command(codes: tuple[str, ...], every: bool, as_json: bool) -> int:
    """What a rule checks, why it matters, likely causes, who enforces it."""
    from kho_inspect.render.explain import explain_document, explain_text
    from kho_inspect.rules.engine import BY_CODE, RULES

    if not codes and not every:
        raise click.UsageError("which rule? KHO201, say, or --all")
    wanted = [code.upper() for code in codes]
    unknown = [code for code in wanted if code not in BY_CODE]
    if unknown:
        raise click.UsageError(f"no rule {unknown[0]!r}; --all lists them")
    rules = RULES if every else [BY_CODE[code] for code in wanted]
    if as_json:
        click.echo(json.dumps(explain_document(rules), indent=2))
    else:
        click.echo("\n\n".join(explain_text(rule) for rule in rules))
    return exit_codes.CLEAN
