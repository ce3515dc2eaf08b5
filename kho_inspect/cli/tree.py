"""``tree``: the radix tree of preserved memory."""

import click

from kho_inspect.cli.exit_codes import handover_status
from kho_inspect.cli.layout import Command
from kho_inspect.cli.options import Input, reads_handover, write_lines


@click.command("tree", cls=Command)
@reads_handover
@click.option("--full", is_flag=True, help="Every node on its own line.")
def command(given: Input, full: bool) -> int:
    """The radix tree: nodes, addresses, what each leaf holds."""
    handover = given.inspect()
    if given.json:
        from kho_inspect.render.json import tree_document

        given.write_json(tree_document(handover))
        return handover_status(handover)
    from kho_inspect.render.report import print_faults
    from kho_inspect.render.tree import folded_tree, full_tree

    console = given.console()
    if handover.tree is not None:
        if full:
            write_lines(f"{line}\n" for line in full_tree(handover.tree, handover.preserved))
        else:
            console.print(folded_tree(handover.tree, handover.preserved))
    print_faults(console, handover.faults)
    return handover_status(handover)
