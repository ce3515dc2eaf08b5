"""``log``: a kernel's log as dmesg prints it, and as JSON."""

from collections.abc import Iterable, Iterator, Sequence

from kho_inspect.kernel_log.kernel import UNKNOWN, Kernel
from kho_inspect.kernel_log.messages import Outcome, known_message
from kho_inspect.kernel_log.printk import Entry
from kho_inspect.memory import PhysicalMemory
from kho_inspect.model.contents import Document
from kho_inspect.render.json import SCHEMA_VERSION
from kho_inspect.render.safe import safe
from kho_inspect.units import plural

LEVELS = ("emerg", "alert", "crit", "err", "warn", "notice", "info", "debug")
FACILITIES = (
    *("kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron"),
    *("authpriv", "ftp"),
)
CARVED = "(carved)"


def log_lines(entries: Iterable[Entry], *, levels: bool, meanings: bool) -> Iterator[str]:
    """Lines as ``dmesg`` prints them, each line of a record with its time.

    With ``levels`` as ``dmesg -x``; with ``meanings`` what a known message means stands below it.
    """
    for entry in entries:
        head = (_level(entry) if levels else "") + _time(entry)
        if entry.carved:
            head += f"{CARVED} "
        for line in entry.text.split("\n"):
            yield f"{head}{_printable(line)}\n"
        known = known_message(entry.text) if meanings else None
        if known and known.outcome is not Outcome.INFO:
            yield f"{' ' * len(head)}→ {known.outcome.value}: {known.meaning}\n"


def _printable(line: str) -> str:
    # Tables of the kernel's are aligned with tabs.
    return "\t".join(map(safe, line.split("\t")))


def _time(entry: Entry) -> str:
    if entry.ts_nsec is None:
        return "[           ?] "
    seconds, rest = divmod(entry.ts_nsec, 10**9)
    return f"[{seconds:5}.{rest // 1000:06}] "


def _level(entry: Entry) -> str:
    if entry.level is None or entry.facility is None:
        return f"{'?':6}:{'?':6}: "
    known = entry.facility < len(FACILITIES)
    facility = FACILITIES[entry.facility] if known else str(entry.facility)
    return f"{facility:6}:{LEVELS[entry.level]:6}: "


def kernel_words(kernel: Kernel) -> str:
    """``7.3.4 (x86_64, build id 1f2e…): 185 records``"""
    facts = [kernel.architecture or "unknown architecture"]
    facts.append(f"build id {kernel.build_id}" if kernel.build_id else "build id unknown")
    words = f"{kernel.release} ({', '.join(facts)}): "
    if not kernel.entries:
        return f"{words}no log"
    words += plural(len(kernel.entries), "record")
    carved = sum(entry.carved for entry in kernel.entries)
    words += f", {carved:,} of them carved" if carved else ""
    return words + (f", {kernel.lost:,} lost" if kernel.lost else "")


def boot_words(kernel: Kernel) -> str:
    """``boot 2: booted from 7.1.13, count 1``"""
    return f"boot {kernel.order}: {kernel.why}" if kernel.order else "boot order unknown"


def kernels_document(kernels: Sequence[Kernel]) -> list[Document]:
    """The kernels of a dump; ``order`` is null where the logs do not say."""
    return [
        {
            "release": None if kernel.release == UNKNOWN else kernel.release,
            "version": kernel.version,
            "build_id": kernel.build_id,
            "architecture": kernel.architecture,
            "command_line": kernel.command_line,
            "order": kernel.order,
            "why": kernel.why,
            "vmcoreinfo": kernel.info and kernel.info.paddr and hex(kernel.info.paddr),
            "records": len(kernel.entries),
            "lost": kernel.lost,
        }
        for kernel in kernels
    ]


def log_document(
    memory: PhysicalMemory, kernels: Sequence[Kernel], kernel: Kernel, entries: Iterable[Entry]
) -> Document:
    """``kho-inspect log --json``: ``kernel`` is the place in ``kernels`` of the one that spoke."""
    return {
        "schema_version": SCHEMA_VERSION,
        "source": {"path": memory.path, "format": memory.format},
        "kernels": kernels_document(kernels),
        "kernel": kernels.index(kernel),
        "entries": (_entry(entry) for entry in entries),
    }


def _entry(entry: Entry) -> Document:
    known = known_message(entry.text)
    document: Document = {
        "seq": entry.seq,
        "level": entry.level,
        "facility": entry.facility,
        "seconds": entry.seconds,
        "text": entry.text,
        "carved": entry.carved,
    }
    if known:
        document |= {"outcome": known.outcome.value, "meaning": known.meaning}
    return document
