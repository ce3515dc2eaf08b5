"""The layout of a command's ``--help``."""

import click


class Common(click.Option):
    """An option that many commands share."""


class Command(click.Command):
    """A command whose own options stand above those that it shares with others."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        own: list[tuple[str, str]] = []
        common: list[tuple[str, str]] = []
        for param in self.get_params(ctx):
            if isinstance(param, click.Option) and (record := param.get_help_record(ctx)):
                (common if isinstance(param, Common) else own).append(record)
        for title, records in ("Options", own), ("Common options", common):
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)
