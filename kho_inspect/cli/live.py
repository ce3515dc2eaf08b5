"""Options that mean the running kernel, in place of the arguments DUMP and DTB."""

from typing import Any

import click

from kho_inspect.cli.layout import Common

_LIVE = "kho_inspect.live"
"""Key in the context of a command that reads the running kernel."""
_NO_FILES = (
    "--live takes no DUMP and no DTB: --kcore FILE and --debugfs DIR name other files than the "
    "running kernel's"
)


class LiveOption(Common):
    """One of them: any makes DUMP and DTB no arguments, so that the command's own come first."""

    def __init__(self, *args: Any, **attributes: Any) -> None:
        super().__init__(*args, is_eager=True, **attributes)

    def handle_parse_result(
        self, ctx: click.Context, opts: Any, args: list[str]
    ) -> tuple[Any, list[str]]:
        if self.name in opts and _LIVE not in ctx.meta and not ctx.resilient_parsing:
            ctx.meta[_LIVE] = True
            _shift_arguments(ctx, opts)
        return super().handle_parse_result(ctx, opts, args)


def _shift_arguments(ctx: click.Context, opts: dict[str, Any]) -> None:
    """Give what was parsed as DUMP and DTB to the arguments behind them."""
    arguments = [param for param in ctx.command.params if isinstance(param, click.Argument)]
    own = [param for param in arguments if param.name not in ("dump", "dtb")]
    given: list[str] = []
    for param in arguments:
        value = opts.get(str(param.name))  # click has a value of its own for none
        given += [value] if isinstance(value, str) else value if isinstance(value, tuple) else ()
    many = any(param.nargs < 0 for param in own)
    # Where there may be any number, no address or selector is so.
    files = [value for value in given if value.startswith("/") or value == "auto"]
    if files if many else len(given) > len(own):
        raise click.UsageError(_NO_FILES, ctx)
    opts["dump"] = opts["dtb"] = "auto"
    for param in own if given else ():
        opts[str(param.name)] = given[0] if param.nargs == 1 else tuple(given)


def take_live(params: dict[str, Any]) -> tuple[str, str] | None:
    """Paths of kcore and debugfs, removed from the parameters of a command; None without."""
    kcore, debugfs = params.pop("kcore"), params.pop("debugfs", None)
    params["live"] = _LIVE in click.get_current_context().meta
    if not params["live"]:
        return None
    from kho_inspect.locate.live import DEBUGFS
    from kho_inspect.memory.kcore import KCORE

    return kcore or KCORE, debugfs or DEBUGFS


LIVE_MEMORY = (
    click.option(
        "--live",
        cls=LiveOption,
        is_flag=True,
        help="Read the running kernel, as root, in place of DUMP and DTB.",
    ),
    click.option(
        "--kcore",
        cls=LiveOption,
        metavar="FILE",
        help="--live from another /proc/kcore; cmdline and vmcore are looked for beside it.",
    ),
)
LIVE_FDT = (
    click.option(
        "--debugfs", cls=LiveOption, metavar="DIR", help="--live from another /sys/kernel/debug."
    ),
    click.option(
        "--incoming",
        cls=LiveOption,
        is_flag=True,
        help="--live of what was handed over, not of what stands ready for the next kernel.",
    ),
)
