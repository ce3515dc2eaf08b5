"""Reading spelled names back: the inverse of ``render.names``."""

import re
from fnmatch import translate
from urllib.parse import unquote

from kho_inspect.model.identity import Owner, Subsystem

_BY_VALUE = {subsystem.value: subsystem for subsystem in Subsystem}
MAX_DIGITS = 20


def parse_owner(text: str) -> Owner | None:
    """``LUO/vm-alpha/0x1001`` → the owner; None for a name that no owner has.

    A token or number may be decimal too.
    """
    head, *rest = text.split("/")
    subsystem = _BY_VALUE.get(head)
    if subsystem is None:
        return None
    try:
        parts: list[str | int] = [unquote(part, errors="surrogatepass") for part in rest]
    except UnicodeDecodeError:
        return None
    number_at = {Subsystem.LUO: 1, Subsystem.KHO_TEST: 0}.get(subsystem)
    if number_at is not None and len(rest) > number_at:
        number = _number(rest[number_at])
        if number is None:
            return None
        parts[number_at] = number
    return Owner(subsystem, tuple(parts))


def parse_glob(text: str) -> re.Pattern[str] | None:
    """``LUO/bulk-0*`` → a pattern for whole spelled names; None where nothing is a wildcard.

    ``*`` is any text, slashes too, ``?`` any character; brackets are what they are.
    """
    if not {"*", "?"} & set(text):
        return None
    return re.compile(translate(text.replace("[", "[[]")))


def _number(text: str) -> int | None:
    if len(text) > MAX_DIGITS or not (text.isascii() and text.isalnum()):
        return None
    try:
        return int(text, 16 if text[:2].lower() == "0x" else 10)
    except ValueError:
        return None
