"""How a run ends when it is cut off: the dump shrinks, Ctrl-C, a closed pipe, a full disk."""

from __future__ import annotations

import errno
import io
import json
import os
import resource
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kho_inspect.cli import exit_codes
from kho_inspect.cli.main import COMMANDS, run
from kho_inspect.cli.options import Input
from tests.support.builder import Image
from tests.support.cli import DTB, DUMP, REPO
from tests.support.running import in_process, save

FULL = Path("/dev/full")

PRELUDE = """
import gzip, hashlib, os, signal, sys
from contextlib import contextmanager

def before(module, name, act):
    "Have something happen whenever a function is called."
    real = getattr(module, name)
    def wrapped(*args, **kwargs):
        act()
        return real(*args, **kwargs)
    setattr(module, name, wrapped)

def within(module, name, act):
    "Have something happen while a file is being written."
    real = getattr(module, name)
    @contextmanager
    def wrapped(*args, **kwargs):
        with real(*args, **kwargs) as file:
            file.write(b"a part")
            act()
            yield file
    setattr(module, name, wrapped)

"""


def in_python(script: str, *args: str | Path) -> subprocess.CompletedProcess[str]:
    """A script in a process of its own, which imports this package."""
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, args)],
        cwd=REPO,
        env={**os.environ, "PYTHONPATH": str(REPO)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def rigged(act: str, where: str, *args: str | Path) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own, with ``act`` to happen at one place."""
    script = PRELUDE + f"def act():\n    {act}\n" + textwrap.dedent(where)
    script += "\nfrom kho_inspect.__main__ import main\nmain()\n"
    return in_python(script, *args)


OPENED = """
    from kho_inspect import inspection
    before(inspection, "inspect_opened", act)
"""
"""Both files are open, and nothing was followed."""
LOCATING = "from kho_inspect.locate import scratch; before(scratch, 'read_scratch', act)"
UNPACKING = "from kho_inspect.memory import compressed; before(compressed, '_write_sparse', act)"
EXTRACTING = "from kho_inspect.recover import extract; within(extract, 'atomic_file_in', act)"
PACKING = "from kho_inspect.recover import pack; within(pack, 'atomic_file', act)"
WRITING_DTB = "from kho_inspect.recover import atomic; within(atomic, 'atomic_file', act)"
IMPORTING = """
    class Finder:
        def find_spec(self, name, path=None, target=None):
            if name == {module!r}:
                act()
    sys.meta_path.insert(0, Finder())
"""


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    path = tmp_path / "dump.elf"
    shutil.copy(REPO / DUMP, path)
    return path


def left_in(folder: Path) -> list[str]:
    """Files beside the dump."""
    return sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith("dump")
    )


# -- a dump that shrinks


def cut(dump: Path, size: int = 4096) -> str:
    return f"os.truncate({str(dump)!r}, {size})"


def assert_cut_short(done: subprocess.CompletedProcess[str], folder: Path) -> None:
    assert (done.returncode, done.stdout) == (3, "")
    lines = done.stderr.splitlines()
    assert len(lines) == 2, done.stderr
    assert lines[0].startswith("kho-inspect: ")
    assert "was cut short" in lines[0]
    assert lines[1] == "  try: inspect a copy that nobody writes to"
    assert left_in(folder) == []


def test_a_dump_that_shrinks_while_it_is_walked(dump: Path, tmp_path: Path) -> None:
    assert_cut_short(rigged(cut(dump), OPENED, "show", dump, DTB), tmp_path)


def test_a_dump_that_shrinks_while_it_is_scanned(dump: Path, tmp_path: Path) -> None:
    scan = "from kho_inspect.locate import scan; before(scan, 'locate', act)"
    out = tmp_path / "kho.dtb"
    assert_cut_short(rigged(cut(dump), scan, "locate", dump, "--write-dtb", out), tmp_path)


def test_a_dump_that_shrinks_while_it_is_hashed(tmp_path: Path) -> None:
    """Hashing lets go of the interpreter's lock: the fault finds nobody in charge."""
    image = Image()
    image.subnode("large", image.blob(bytes(1 << 20)), 1 << 20)
    dump, dtb = save(image, tmp_path, image.finish())
    where = """
    from kho_inspect.decoders import subnode
    before(subnode.hashlib, "sha256", act)
    """
    done = rigged(cut(dump, 8192), where, "show", dump, dtb)
    dtb.unlink()
    assert_cut_short(done, tmp_path)


@pytest.mark.parametrize(
    ("where", "args"),
    [
        # A small file is buffered, and the fault one of ours; a large one is the kernel's to read.
        (EXTRACTING, ["extract", "kho_test", "-o", "out"]),
        (EXTRACTING, ["extract", "LUO", "-o", "out"]),
        (PACKING, ["pack", "-o", "out.elf"]),
    ],
    ids=["extract-small", "extract", "pack"],
)
def test_a_dump_that_shrinks_leaves_no_partial_file(
    dump: Path, tmp_path: Path, where: str, args: list[str]
) -> None:
    command, *rest = args
    rest[-1] = str(tmp_path / rest[-1])
    assert_cut_short(rigged(cut(dump), where, command, dump, DTB, *rest), tmp_path)


def test_importing_the_library_leaves_the_signals_alone() -> None:
    code = (
        "import signal; before = [signal.getsignal(n) for n in signal.valid_signals()];"
        "import kho_inspect; kho_inspect.inspect(*%r);"
        "assert before == [signal.getsignal(n) for n in signal.valid_signals()];"
        "import kho_inspect.cli.process as process; assert not process._handlers"
    )
    subprocess.run([sys.executable, "-c", code % ((DUMP, DTB),)], cwd=REPO, check=True)


# -- signals


@pytest.mark.parametrize(
    ("where", "args"),
    [
        (IMPORTING.format(module="click"), ["show", DUMP, DTB]),
        (IMPORTING.format(module="numpy"), ["show", DUMP, DTB]),
        (OPENED, ["show", DUMP, DTB]),
        (EXTRACTING, ["extract", DUMP, DTB, "-o", "OUT"]),
        (PACKING, ["pack", DUMP, DTB, "-o", "OUT"]),
        (WRITING_DTB, ["locate", DUMP, "--write-dtb", "OUT"]),
        (UNPACKING, ["show", "GZIP", DTB]),
    ],
    ids=["importing", "importing-numpy", "show", "extract", "pack", "locate", "unpacking"],
)
def test_ctrl_c_is_quiet_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, args: list[str]
) -> None:
    packed = tmp_path / "dump.gz"
    if "GZIP" in args:
        subprocess.run(["gzip", "-c", DUMP], cwd=REPO, stdout=packed.open("wb"), check=True)
        monkeypatch.setenv("TMPDIR", str(tmp_path))
    places = {"OUT": tmp_path / "out", "GZIP": packed}
    done = rigged(
        "os.kill(os.getpid(), signal.SIGINT)", where, *(places.get(arg, arg) for arg in args)
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
    assert left_in(tmp_path) == []


def test_sigterm_leaves_nothing_either(tmp_path: Path) -> None:
    out = tmp_path / "out.elf"
    act = "os.kill(os.getpid(), signal.SIGTERM)"
    done = rigged(act, PACKING, "pack", DUMP, DTB, "-o", out)
    assert (done.returncode, done.stdout, done.stderr) == (143, "", "")
    assert left_in(tmp_path) == []


def test_a_second_ctrl_c_does_not_disturb_the_cleaning_up(tmp_path: Path) -> None:
    act = "os.kill(os.getpid(), signal.SIGINT)"
    where = PACKING + "; from kho_inspect.recover import atomic; before(atomic, '_remove', act)"
    done = rigged(act, where, "pack", DUMP, DTB, "-o", tmp_path / "out.elf")
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
    assert left_in(tmp_path) == []


def test_an_ignored_signal_stays_ignored() -> None:
    """As under nohup."""
    act = "os.kill(os.getpid(), signal.SIGINT)"
    where = "signal.signal(signal.SIGINT, signal.SIG_IGN)" + textwrap.dedent(OPENED)
    done = rigged(act, where, "show", DUMP, DTB)
    assert (done.returncode, done.stderr) == (0, "")


# -- where the output goes


def arguments(command: str, folder: Path) -> list[str]:
    """A run of a command that has something to say."""
    if command == "targets":
        return ["targets", "linux-7.2", "linux-7.3"]
    if command == "explain":
        return ["explain", "--all"]
    if command == "log":
        return ["log", str(REPO / "samples" / "x86_64-refused.elf"), "--kernel", "2"]
    more = {
        "addr": ["0x4a4000"],
        "read": ["0x4a4000"],
        "find": ["LUO"],
        "extract": ["-o", str(folder / "out"), "--force"],
        "pack": ["-o", str(folder / "out.elf"), "--force"],
    }
    dtb = [] if command in ("locate", "log", "carve") else [str(REPO / DTB)]
    return [command, str(REPO / DUMP), *dtb, *more.get(command, [])]


@contextmanager
def stdout_is(number: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """Have a file descriptor for stdout; gives what comes on stderr."""
    told = io.StringIO()
    with monkeypatch.context() as patch, open(number, "w") as stream:
        patch.setattr(sys, "stdout", stream)
        patch.setattr(sys, "stderr", told)
        yield told


def complaint(told: io.StringIO) -> str:
    """What stderr has but for the kernels, which ``log`` lists there."""
    return "".join(line for line in told.getvalue().splitlines(True) if "; boot " not in line)


FORMS = [
    *([command] for command in COMMANDS),
    *([command, "--json"] for command in COMMANDS),
    *(["check", "--format", form] for form in ("junit", "sarif", "github")),
    ["tree", "--full"],
    ["blobs", "--hexdump"],
    ["--help"],
    ["--version"],
]


def form_arguments(form: list[str], folder: Path) -> list[str]:
    return form if form[0] not in COMMANDS else [*arguments(form[0], folder), *form[1:]]


@pytest.mark.parametrize("form", FORMS, ids=" ".join)
def test_a_pipe_closed_at_once_is_quiet(
    form: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = form_arguments(form, tmp_path)
    if form == ["check", "--format", "github"]:
        args += ["--target", "linux-7.3"]  # of a sound image it says nothing
    reader, writer = os.pipe()
    os.close(reader)
    with stdout_is(writer, monkeypatch) as told:
        status = run(args)
    assert (status, complaint(told)) == (141, "")


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full here")
@pytest.mark.parametrize("form", FORMS, ids=" ".join)
def test_a_full_disk_under_stdout_is_said(
    form: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = form_arguments(form, tmp_path)
    if form == ["check", "--format", "github"]:
        args += ["--target", "linux-7.3"]
    with stdout_is(os.open(FULL, os.O_WRONLY), monkeypatch) as told:
        status = run(args)
    message = "kho-inspect: cannot write the output: No space left on device\n"
    assert (status, complaint(told)) == (3, message)


@pytest.mark.parametrize(
    ("redirection", "args", "status"),
    [
        (">&-", f"show {DUMP} {DTB}", 3),
        (">&-", f"show {DUMP} {DTB} --json", 3),
        (">&- 2>&-", "show nowhere", 3),
        ("<&- >&- 2>&-", f"tree {DUMP} {DTB}", 3),
        ("2>/dev/full", "show nowhere", 3),
        ("2>/dev/full", "show --nope", 2),
    ],
)
def test_closed_or_full_standard_files(redirection: str, args: str, status: int) -> None:
    shell = f"{sys.executable} -m kho_inspect {args} {redirection}"
    done = subprocess.run(["bash", "-c", shell], cwd=REPO, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (status, b"")
    unwritten = redirection == ">&-"
    words = b"kho-inspect: cannot write the output: Bad file descriptor\n"
    assert done.stderr == (words if unwritten else b"")


def test_no_file_that_is_opened_takes_the_place_of_a_closed_standard_one() -> None:
    """What C code writes to stderr would else end up in it."""
    script = (
        "import os; from kho_inspect.cli.process import prepare; prepare();"
        "opened = os.open(os.devnull, os.O_RDONLY); os._exit(40 + opened)"
    )
    shell = f"{sys.executable} -c '{script}' <&- >&- 2>&-"
    assert subprocess.run(["bash", "-c", shell], cwd=REPO, check=False).returncode > 42


# -- a full disk under the files


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """No file may grow beyond ``size`` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    ("args", "size"),
    [
        (["pack", DUMP, DTB, "-o", "OUT"], 100_000),
        (["extract", DUMP, DTB, "reserve_mem", "-o", "OUT"], 100),
        (["locate", DUMP, "--write-dtb", "OUT"], 100),
    ],
    ids=["pack", "extract", "locate"],
)
def test_a_disk_that_fills_up_is_said_and_nothing_is_left(
    tmp_path: Path, args: list[str], size: int
) -> None:
    with room_for(size):
        result = in_process(*(str(tmp_path / "out") if arg == "OUT" else arg for arg in args))
    assert (result.status, result.stdout) == (3, "")
    assert result.stderr.startswith(f"kho-inspect: cannot write {tmp_path / 'out'}")
    assert result.stderr.endswith(": File too large\n")
    assert set(left_in(tmp_path)) <= {"out/reserve_mem/tracebuf"}


@pytest.mark.parametrize("name", ["null", "fifo", "folder"])
@pytest.mark.parametrize("command", ["pack", "locate"])
def test_only_regular_files_are_replaced(tmp_path: Path, command: str, name: str) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    # By a link, so that a tool that does replace it leaves the machine its own.
    (tmp_path / "null").symlink_to("/dev/null")
    path = tmp_path / name
    before = path.stat()
    option = ["--write-dtb"] if command == "locate" else [DTB, "-o"]
    result = in_process(command, DUMP, *option, path, "--force")
    assert result.status == 3
    assert result.stderr == f"kho-inspect: cannot write {path}: it is no regular file\n"
    assert (path.stat().st_ino, path.stat().st_mode) == (before.st_ino, before.st_mode)


def test_a_dtb_in_the_way_is_told_before_the_scan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(Input, "open_memory")
    (tmp_path / "kho.dtb").touch()
    result = in_process("locate", DUMP, "--write-dtb", tmp_path / "kho.dtb")
    assert (result.status, "kho.dtb exists" in result.stderr) == (3, True)


def test_a_module_beside_the_dump_is_not_run(tmp_path: Path) -> None:
    for name in ("numpy", "click", "rich", "construct", "tomllib", "gc"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('hostile')")
    done = subprocess.run(
        [sys.executable, "-m", "kho_inspect", str(REPO / DUMP), str(REPO / DTB)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPO)},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_help_of_a_command_is_its_help() -> None:
    asked = in_process("help", "check")
    assert asked.status == 0
    assert asked.stdout == in_process("check", "--help").stdout
    assert in_process("help").stdout == in_process("--help").stdout


def test_help_of_no_command_was_that_of_show() -> None:
    asked = in_process("help", "nosuch")
    assert (asked.status, asked.stdout) == (2, "")
    assert "no command 'nosuch'" in asked.stderr


def test_what_is_written_before_an_error_is_not_lost_in_a_buffer() -> None:
    act = "import kho_inspect.cli.main as cli\n"
    act += "cli.run = lambda: print('a part', end='') or 3"
    done = in_python(f"{act}\nfrom kho_inspect.__main__ import main\nmain()")
    assert (done.returncode, done.stdout, done.stderr) == (3, "a part", "")


# -- too little of something


def started(limit: str, *args: str | Path, act: str = "") -> subprocess.CompletedProcess[str]:
    """The command line where, once Python stands, ``limit`` is set and ``act`` done."""
    script = f"import resource, sys\nimport kho_inspect.__main__ as program\n{act}\n{limit}\n"
    return in_python(f"{script}program.main()", *args)


@pytest.mark.parametrize("command", ["show", "extract"])
@pytest.mark.parametrize("number", range(3, 9))
def test_few_descriptors_were_an_unreadable_input(
    command: str, number: int, tmp_path: Path
) -> None:
    limit = f"resource.setrlimit(resource.RLIMIT_NOFILE, ({number}, {number}))"
    done = started(limit, *arguments(command, tmp_path))
    if done.returncode != 71:
        assert number > 5
        assert done.returncode == 0
        return
    message, hint = done.stderr.splitlines()
    assert message.startswith("kho-inspect: cannot ")
    assert message.endswith(": Too many open files")
    assert hint == "  try: raise ulimit -n"


def test_few_descriptors_are_said_in_json_with_the_same_hint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def lack(*args: object, **options: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr("mmap.mmap", lack)
    result = in_process("show", DUMP, DTB, "--json")
    assert result.status == 71
    assert json.loads(result.stdout)["error"]["hint"] == "raise ulimit -n"
    assert result.stderr.endswith("Too many open files\n  try: raise ulimit -n\n")


@pytest.mark.parametrize("kib", [15_000, 60_000, 100_000, 200_000])
def test_little_memory_ends_in_words_or_is_enough(kib: int, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "kho_inspect", *arguments("extract", tmp_path)],
        cwd=REPO,
        env={**os.environ, "PYTHONPATH": str(REPO), "OPENBLAS_NUM_THREADS": "64"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (kib << 10, kib << 10)),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if kib < 200_000:
        words = "kho-inspect: cannot go on: Cannot allocate memory\n  try: raise ulimit -v"
        assert (done.returncode, done.stderr[: len(words)]) == (71, words)
    else:
        assert (done.returncode, done.stderr) == (0, "")


def test_a_dump_larger_than_the_address_space_is_no_unreadable_input(tmp_path: Path) -> None:
    dump = tmp_path / "dump"
    with dump.open("wb") as file:
        file.truncate(1 << 40)
    limit = "resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))"
    done = started(limit, "show", dump, DTB)
    assert (done.returncode, done.stdout) == (71, "")
    assert done.stderr == (
        f"kho-inspect: cannot map {dump}: Cannot allocate memory\n"
        f"  try: {exit_codes.REMEDIES[errno.ENOMEM]}\n"
    )


@pytest.mark.parametrize("module", ["click", "numpy", "rich.console"])
def test_a_missing_module_was_called_a_lack_of_memory(module: str) -> None:
    done = started("", "show", DUMP, DTB, act=f"sys.modules[{module!r}] = None")
    assert (done.returncode, done.stdout) == (70, "")
    message, hint = done.stderr.splitlines()
    assert message.startswith("kho-inspect: badly installed: ")
    assert module in message
    assert hint == "  try: pip install --force-reinstall kho-inspect"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ImportError("libx.so: failed to map segment from shared object"), 71),
        (ImportError("libx.so: cannot open shared object file: Too many open files"), 71),
        (ImportError("libx.so: cannot open shared object file: No such file or directory"), 70),
        (ImportError("libx.so: undefined symbol: Py_None"), 70),
        (ModuleNotFoundError("No module named 'x'"), 70),
        (MemoryError(), 71),
        (OSError(errno.ENFILE, "too many"), 71),
    ],
    ids=repr,
)
def test_an_import_that_fails_is_told_from_a_shortage(
    monkeypatch: pytest.MonkeyPatch, error: Exception, status: int
) -> None:
    def fail(given: Input) -> object:
        # As numpy does it: an error of its own, with the cause in the chain.
        raise ImportError("see the list of common reasons\n") from error

    monkeypatch.setattr(Input, "inspect", fail)
    result = in_process("owners", DUMP, DTB)
    assert (result.status, result.stdout) == (status, "")
    assert result.stderr.count("\n") == 2
