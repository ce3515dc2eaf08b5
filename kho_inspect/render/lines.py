"""Findings, one a line: for grep and editors."""

from collections.abc import Iterator

from kho_inspect.render.names import message_text, path_name
from kho_inspect.render.safe import safe
from kho_inspect.rules.engine import Verdict


def finding_lines(verdict: Verdict) -> Iterator[str]:
    """Code, severity, address, path and message, separated by tabs; what there is not is -."""
    for finding in verdict.findings:
        for place in finding.places:
            address = "-" if place.paddr is None else f"{place.paddr:#x}"
            fields = (address, path_name(place.path) or "-", message_text(place.message))
            words = (finding.code, finding.severity.label, *map(safe, fields))
            yield "\t".join(words) + "\n"
        if left := finding.count - len(finding.places):
            words = (finding.code, finding.severity.label, "-", "-", f"{left:,} more of these")
            yield "\t".join(words) + "\n"
