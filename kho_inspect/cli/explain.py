"""``explain``: what a rule checks, why it matters, who enforces it."""

import click

from kho_inspect.cli import exit_codes
from kho_inspect.cli.layout import Command
from kho_inspect.cli.options import write_document
from kho_inspect.cli.params import code_prefixes


@click.command("explain", cls=Command)
@click.argument("codes", metavar="[CODES]...", nargs=-1)
@click.option("--all", "every", is_flag=True, help="All rules.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of text.")
@click.option(
    "--color", type=click.Choice(["auto", "always", "never"]), default="auto", help="Colour."
)
def command(codes: tuple[str, ...], every: bool, as_json: bool, color: str) -> int:
    """What a rule checks, why it matters, likely causes, who enforces it.

    CODES are as of check --select: KHO201, KHO3 for the whole group, KHO2,KHO308.
    """
    from kho_inspect.render.explain import explain_document, print_rules
    from kho_inspect.rules.engine import BY_CODE, RULES

    wanted = code_prefixes(codes)
    if not wanted and not every:
        raise click.UsageError("which rule? KHO201, say, or --all")
    chosen = {
        code: rule for each in wanted for code, rule in BY_CODE.items() if code.startswith(each)
    }
    rules = RULES if every else list(chosen.values())
    if as_json:
        from kho_inspect.render.json import stream

        write_document(stream(explain_document(rules)))
    else:
        from kho_inspect.render.console import make_console

        print_rules(make_console(color), rules)
    return exit_codes.CLEAN
