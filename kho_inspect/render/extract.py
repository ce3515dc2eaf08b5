"""What ``extract`` wrote, on the console."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from kho_inspect.render.console import most, plain, table
from kho_inspect.units import human_size, plural

MAX_LISTED = 200


def print_entries(console: Console, directory: str, entries: Sequence[dict[str, Any]]) -> None:
    """One row per file, what is missing in it, and why it is in doubt."""
    doubtful = any(entry["doubts"] for entry in entries)
    columns = ("extracted", "size", "missing", *(("doubt",) if doubtful else ()))
    made = table(*columns, right=("size",))
    for entry in (listed := most(entries, MAX_LISTED)):
        missing: Counter[str] = Counter()
        for gap in entry["gaps"]:
            missing[gap["why"]] += gap["end"] - gap["start"]
        words = ", ".join(f"{human_size(size)} {why}" for why, size in missing.items())
        made.add_row(
            plain(" = ".join(filter(None, (entry["selector"], entry["given_name"])))),
            human_size(entry["size"]),
            Text(words or "-", "yellow"),
            *((plain(", ".join(entry["doubts"]) or "-", "yellow"),) if doubtful else ()),
        )
    console.print(made)
    if left := len(entries) - len(listed):
        console.print(Text(f"… {left:,} more: --json lists them", "dim"))
    done = f"{plural(len(entries), 'file')} and manifest.json in {directory}"
    console.print(plain(done))
