"""Types of parameters: how a word of the command line becomes a value."""

import os
from collections.abc import Sequence
from typing import Any

import click

from kho_inspect.abi import TARGETS, Kernel, find_target
from kho_inspect.cli.process import exit_when_cut_short
from kho_inspect.units import Extent, PhysAddr, parse_extent, parse_size


class ParamType(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """click's own, which takes no type argument before click 8.4; ``convert`` says the type."""


class Address(ParamType):
    """``0x40000000``, ``1G``, ``4096K``."""

    name = "address"

    def convert(self, value: Any, param: Any, ctx: Any) -> PhysAddr:
        if isinstance(value, int):
            return value
        try:
            return parse_size(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Root(Address):
    """``auto``, ``incoming``, ``outgoing``, or an address."""

    name = "paddr|incoming|outgoing"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        known = value in ("auto", "incoming", "outgoing")
        return value if known else super().convert(value, param, ctx)


class Mode(ParamType):
    """Permissions, in octal."""

    name = "mode"

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        if isinstance(value, int):
            return value
        try:
            mode = int(value, 8)
        except ValueError:
            mode = -1
        if not 0o400 <= mode <= 0o777:
            self.fail(f"{value!r} is no octal mode between 400 and 777", param, ctx)
        return mode


class RamMap(ParamType):
    """``PADDR:OFFSET:SIZE``; ``START-END:OFFSET`` or ``START+LEN:OFFSET``."""

    name = "paddr:offset:size"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, int, int]:
        if isinstance(value, tuple):
            return value
        try:
            first, offset, *size = value.split(":")
            where = parse_extent(first) if not size else None
            paddr, offset = where.start if where else parse_size(first), parse_size(offset)
            (size,) = [where.size] if where else map(parse_size, size)
        except ValueError:
            words = "PADDR:OFFSET:SIZE or START-END:OFFSET, each in hex or decimal"
            self.fail(f"{value!r} is not {words}", param, ctx)
        if not size:
            self.fail("a RAM block of no size", param, ctx)
        return paddr, offset, size


class DumpFormat(ParamType):
    """``auto``, a key of ``memory.FORMATS`` (not imported by ``--help``)."""

    name = "format"

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        from kho_inspect.memory import FORMATS

        choices = ("auto", *FORMATS)
        if value not in choices:
            self.fail(f"{value!r} is not one of {', '.join(choices)}", param, ctx)
        return str(value)


class Area(ParamType):
    """``START+LEN`` or ``START-END``."""

    name = "start+len"

    def convert(self, value: object, param: object, ctx: object) -> Extent:
        if isinstance(value, Extent):
            return value
        try:
            return parse_extent(str(value))
        except ValueError as error:
            self.fail(str(error))


class Target(ParamType):
    """``kho-v4``, ``v4``, ``linux-7.3``, or a path that leads to a kernel image."""

    name = "target"

    def convert(self, value: object, param: object, ctx: object) -> tuple[str, Kernel]:
        if isinstance(value, tuple):
            return value
        kernel = find_target(str(value))
        if kernel is not None:
            return str(value), kernel
        if not os.path.exists(str(value)):  # noqa: PTH110  # of Path, some errors come out
            known = ", ".join(TARGETS)
            self.fail(f"{value!r} is no kernel image and no kernel or ABI that is known: {known}")
        from kho_inspect.kernels.accepts import read_kernel

        exit_when_cut_short(str(value))
        image = read_kernel(str(value))
        return image.name, image


def code_prefixes(lists: Sequence[str]) -> tuple[str, ...]:
    """``KHO2,308`` as prefixes of codes. Raises click.UsageError where a rule has none."""
    from kho_inspect.rules.engine import BY_CODE

    found = []
    for code in ",".join(lists).split(","):
        if not code.strip():
            continue
        prefix = code.strip().upper().rstrip("X")
        prefix = prefix if prefix.startswith("KHO") else f"KHO{prefix or '?'}"
        if not any(known.startswith(prefix) for known in BY_CODE):
            raise click.UsageError(f"no rule {code.strip()!r}; explain --all lists them")
        found.append(prefix)
    return tuple(found)
