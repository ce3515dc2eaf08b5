"""Which root, LUO and files stand together, as releases and proposals pair them: all are read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import pytest

from kho_inspect.abi import Kernel, find_target, kernels_of
from kho_inspect.decoders.memfd import Memfd
from kho_inspect.inspection import Options, Question, examine
from kho_inspect.model.luo import Luo
from kho_inspect.render.names import message_text
from kho_inspect.rules.base import Decision, Severity
from kho_inspect.rules.engine import Verdict, judge
from kho_inspect.rules.statements import Integrity
from tests.support import luo_builder as write
from tests.support.builder import Image, Tree, fdt_blob
from tests.support.extracting import Case
from tests.support.looking import blocks_of, look
from tests.support.luo_builder import File, Session, feature_header, u64
from tests.support.running import document, in_process, save

COMPOSITE = "kho-v4;radix-v1;vmalloc-v1"
FEATURES = feature_header(7)
SHIFTS = (12, 14, 16)


@dataclass(frozen=True)
class Pairing:
    """What one kernel writes."""

    root: str
    luo: bytes
    """String, or feature header; ``luo-v1`` is an FDT."""
    memfd: int | bytes
    """Version, or feature header."""
    handler: bytes | None = None
    targets: tuple[str, ...] = ()
    """Kernels that take all of it."""

    def serialize(self, image: Image, sessions: list[Session]) -> None:
        flbs = [(b"flb", 5, 1)]
        if self.luo == b"luo-v1":
            write.luo_v1(image, sessions, flbs)
        else:
            write.luo_v5(image, sessions, flbs, start=self.luo)

    def file(self, image: Image, content: bytes, **more: object) -> write.Memfd:
        name = "version" if isinstance(self.memfd, int) else "features"
        own: dict[str, object] = {name: self.memfd}
        return write.memfd(image, content, handler=self.handler, **own, **more)  # type: ignore[arg-type]


PAIRINGS = {
    "6.19 and 7.0": Pairing(
        "kho-v1", b"luo-v1", 1, targets=("kho-v1", "linux-6.19", "linux-7.0", "7.0.4")
    ),
    "7.1": Pairing("kho-v3", b"luo-v1", 2, targets=("kho-v3", "linux-7.1")),
    "7.2 and 7.3": Pairing("kho-v4", b"luo-v5", 2, targets=("v4", "linux-7.2", "linux-7.3")),
    "composite": Pairing(COMPOSITE, b"luo-v5;block-v1", 2),
    "composite file": Pairing(COMPOSITE, b"luo-v5;block-v1", 2, b"memfd-v2;vmalloc-v1"),
    "composite LUO alone": Pairing("kho-v4", b"luo-v5;block-v1", 2),
    "composite root alone": Pairing("kho-v4;radix-v1", b"luo-v5", 2),
    "features": Pairing("kho-v4", FEATURES, feature_header(3)),
    "features, composite root": Pairing(COMPOSITE, FEATURES, feature_header(3)),
    "features of LUO alone": Pairing("kho-v4", FEATURES, 2),
    "no feature required": Pairing("kho-v4", feature_header(7, 0), feature_header(3, 0)),
}
every_pairing = pytest.mark.parametrize("name", PAIRINGS)


def rich(pairing: Pairing, shift: int = 12) -> tuple[Image, dict[str, bytes]]:
    """A handover with one of everything; the content of each of its files, by selector."""
    image = Image(shift, pairing.root)
    page = image.page_size
    files = [
        pairing.file(image, write.pattern(3 * page + 5, 1), pos=9),
        pairing.file(image, write.pattern(9 * page, 2), layout=[(0, 3), (8, 0)]),
        pairing.file(image, b""),
    ]
    sessions = [
        Session(b"vm", [File(1, files[0]), File(2, files[1])]),
        Session(b"other", [File(1, files[2])]),
    ]
    pairing.serialize(image, sessions)
    _, props = write.reserve_mem(image, 2)
    write.memblock(image, [(b"trace", props)])
    write.kho_test(image, [(0, b"one"), (1, b"two")])
    names = ("LUO/vm/0x1", "LUO/vm/0x2", "LUO/other/0x1")
    return image, {name: file.content for name, file in zip(names, files, strict=True)}


def verdict(
    image: Image, folder: Path, target: Kernel | None = None, assume_abi: str | None = None
) -> Verdict:
    dump, dtb = save(image, folder, image.finish())
    question = Question(target, target.name if target else "")
    return judge(examine(str(dump), str(dtb), Options(assume_abi=assume_abi), question))


def said(found: Verdict) -> list[tuple[str, Severity, str]]:
    return [(one.code, one.severity, message_text(one.message)) for one in found.findings]


def luo_of(image: Image) -> Luo:
    found = next(blob.content for blob in look(image, image.finish()).blobs if blob.name == "LUO")
    assert isinstance(found, Luo)
    return found


# -- healthy images


@pytest.mark.parametrize(("name", "shift"), [*product(PAIRINGS, SHIFTS)])
def test_a_pairing_is_read_whole_and_every_page_is_owned(name: str, shift: int) -> None:
    image, contents = rich(PAIRINGS[name], shift)
    handover = look(image, image.finish())
    assert (handover.geometry.shift, handover.faults) == (shift, ())
    assert blocks_of(handover) == image.preserved
    ownership = handover.ownership
    troubles = (ownership.unclaimed, ownership.dangling, ownership.shared)
    assert [ownership.size(pages) for pages in troubles] == [0, 0, 0]
    assert all(blob.content is not None and blob.preserved for blob in handover.blobs)
    luo = next(blob.content for blob in handover.blobs if isinstance(blob.content, Luo))
    assert [session.name for session in luo.sessions] == ["vm", "other"]
    memfds = [file.content for file in luo.files]
    assert all(isinstance(memfd, Memfd) for memfd in memfds)
    assert [memfd.size for memfd in memfds if memfd] == [len(one) for one in contents.values()]
    assert list(luo.unknown()) == []


@every_pairing
def test_a_pairing_gives_no_finding(name: str, tmp_path: Path) -> None:
    found = verdict(rich(PAIRINGS[name])[0], tmp_path)
    assert said(found) == []
    assert (found.decision.state, found.integrity) == (Decision.ACCEPTS, Integrity.NO_DEFECT)


@every_pairing
def test_a_pairing_gives_its_files_back(name: str, tmp_path: Path) -> None:
    image, contents = rich(PAIRINGS[name])
    case = Case(image, tmp_path)
    items = case.extract()
    assert {selector: case.content(items[selector]) for selector in contents} == contents


@pytest.mark.parametrize(
    ("name", "target"), [(name, target) for name, one in PAIRINGS.items() for target in one.targets]
)
def test_the_kernels_that_write_a_pairing_take_it(name: str, target: str, tmp_path: Path) -> None:
    found = verdict(rich(PAIRINGS[name])[0], tmp_path, find_target(target))
    assert (said(found), found.decision.state) == ([], Decision.ACCEPTS)


@pytest.mark.parametrize(("name", "shift"), [*product(("6.19 and 7.0", "composite"), SHIFTS)])
def test_a_pairing_is_found_without_its_dtb(name: str, shift: int, tmp_path: Path) -> None:
    image, _ = rich(PAIRINGS[name], shift)
    image.finish()
    dump = tmp_path / "dump"
    image.write_raw(dump)
    found = judge(examine(str(dump)))
    above_info = [code for code, severity, _ in said(found) if severity > Severity.INFO]
    assert (above_info, found.decision.state) == ([], Decision.ACCEPTS)


def test_features_are_shown(tmp_path: Path) -> None:
    image, _ = rich(PAIRINGS["features"])
    luo = luo_of(image)
    assert luo.document()["features"] == {
        "supported": 7,
        "required": 7,
        "active": 7,
        "active_names": ["number", "sessions", "flbs"],
    }
    assert luo.document()["sessions"][0]["files"][0]["memfd"]["features"]["active_names"] == [
        "seals",
        "folios",
    ]


# -- kernels that take something else


@pytest.mark.parametrize(
    ("name", "target", "code", "words", "decision"),
    [
        ("6.19 and 7.0", "linux-6.18", "KHO513", "linux-6.18 have no handler", "accepts"),
        ("6.19 and 7.0", "linux-7.1", "KHO105", "incompatible with 'kho-v3'", "refuses"),
        ("composite", "linux-7.3", "KHO105", "incompatible with 'kho-v4'", "refuses"),
        ("composite LUO alone", "linux-7.3", "KHO502", "'luo-v5;block-v1', should be", "panics"),
        ("features", "kho-v4", "KHO502", "'luo', should be luo-v5 for kho-v4", "panics"),
        ("features", "kho-v4", "KHO513", "'memfd', kernels of kho-v4 have memfd-v2", "panics"),
    ],
)
def test_a_target_that_lacks_a_part_says_so(
    name: str, target: str, code: str, words: str, decision: str, tmp_path: Path
) -> None:
    found = verdict(rich(PAIRINGS[name])[0], tmp_path, find_target(target))
    assert any(one == code and words in text for one, _, text in said(found))
    assert found.decision.state.value == decision


@pytest.mark.parametrize(("old", "new"), [(b"memfd-v1", b"memfd-v2"), (b"memfd-v2", b"memfd-v1")])
def test_a_known_handler_that_the_kernels_of_a_root_lack_is_an_error(
    old: bytes, new: bytes, tmp_path: Path
) -> None:
    root, luo = ("kho-v1", b"luo-v1") if old == b"memfd-v1" else ("kho-v4", b"luo-v5")
    image, _ = rich(Pairing(root, luo, int(new[-1:])))
    assert [one[0] for one in said(verdict(image, tmp_path))] == ["KHO513"]


def test_a_target_is_asked_for_the_features_that_are_required(tmp_path: Path) -> None:
    image, _ = rich(Pairing("kho-v4", FEATURES, feature_header(3)))
    whole = Kernel("new", "kho-v4", ("luo",), ("memfd",), (("luo", 7), ("memfd", 3)))
    less = Kernel("less", "kho-v4", ("luo",), ("memfd",), (("luo", 3), ("memfd", 2)))
    assert said(verdict(image, tmp_path, whole)) == []
    image, _ = rich(Pairing("kho-v4", FEATURES, feature_header(3)))
    texts = [text for _, _, text in said(verdict(image, tmp_path, less))]
    assert texts[0] == "LUO requires flbs, which less has not: the next kernel panics"
    assert texts[1] == "file 0x1 of session 'vm' requires seals, which less has not"


# -- parts that are not known


def test_a_map_of_an_unknown_part_is_not_followed_and_the_rest_is_read(tmp_path: Path) -> None:
    image, contents = rich(Pairing("kho-v4;radix-v2;vmalloc-v1", b"luo-v5;block-v1", 2))
    found = verdict(image, tmp_path)
    assert [(code, level) for code, level, _ in said(found)] == [("KHO113", Severity.INFO)]
    assert "'radix-v2' is not known" in said(found)[0][2]
    assert (found.decision.state, found.integrity) == (Decision.UNKNOWN, Integrity.UNDECIDED)
    handover = look(image, image.root_fdt())
    assert (handover.tree, handover.preserved.blocks) == (None, 0)
    assert [blob.preserved for blob in handover.blobs] == [None] * 3
    luo = next(blob.content for blob in handover.blobs if isinstance(blob.content, Luo))
    assert [file.content.size for file in luo.files if file.content] == [
        len(one) for one in contents.values()
    ]


def test_what_is_preserved_under_an_unknown_map_is_not_known(tmp_path: Path) -> None:
    image, _ = rich(Pairing("kho-v4;radix-v2", b"luo-v5", 2))
    case = Case(image, tmp_path)
    doubts = [item["doubts"] for item in case.extract().values()]
    assert doubts == [["unknown map"]] * len(doubts)
    shown = in_process("owners", *case.files).stdout
    assert "what is preserved is not known" in shown
    assert "dangling" not in shown.lower()
    page = hex(next(iter(image.preserved))[0])
    assert "unknown whether preserved" in in_process("addr", *case.files, page).stdout
    assert document("addr", *case.files, page)["addresses"][0]["preserved"] is None


def test_vmalloc_areas_of_an_unknown_part_are_not_followed(tmp_path: Path) -> None:
    image, _ = rich(Pairing("kho-v4;radix-v1;vmalloc-v2", b"luo-v5", 2))
    found = verdict(image, tmp_path)
    assert {level for _, level, _ in said(found)} == {Severity.INFO}
    texts = " ".join(text for _, _, text in said(found))
    assert "'vmalloc-v2' is not known" in texts
    assert "sub-node 'kho_test' is not known" in texts
    assert "file handler 'memfd-v2' is not known" in texts
    assert found.decision.state is Decision.UNKNOWN


def test_sessions_in_blocks_of_an_unknown_part_are_not_followed(tmp_path: Path) -> None:
    image, _ = rich(Pairing(COMPOSITE, b"luo-v5;block-v2", 2))
    found = verdict(image, tmp_path)
    assert [code for code, _, _ in said(found)] == ["KHO614"]
    assert "part 'block-v2' of LUO 'luo-v5;block-v2' is not known" in said(found)[0][2]
    assert found.decision.state is Decision.UNKNOWN
    luo = luo_of(image)
    assert (luo.liveupdate_num, luo.sessions, len(luo.flbs)) == (1, (), 1)
    assert luo.summary() == "sessions not read: block-v2"


@pytest.mark.parametrize("required", [True, False])
def test_a_feature_without_a_name_is_shown_as_its_bit(required: bool, tmp_path: Path) -> None:
    header = feature_header(0x27, 0x27 if required else 7, 0x27)
    image, _ = rich(Pairing("kho-v4", header, feature_header(3)))
    found = verdict(image, tmp_path)
    assert [(code, level) for code, level, _ in said(found)] == [("KHO614", Severity.INFO)]
    assert "LUO feature 0x20 is not known" in said(found)[0][2]
    wanted = Decision.UNKNOWN if required else Decision.ACCEPTS
    assert found.decision.state is wanted


@pytest.mark.parametrize(
    ("handler", "words"),
    [
        (b"memfd-v2;foo-v1", "part 'foo-v1' of file handler 'memfd-v2;foo-v1' is not known"),
        (b"memfd-v2;vmalloc-v2", "file handler 'memfd-v2;vmalloc-v2' is not known"),
    ],
)
def test_an_unknown_part_of_a_handler_is_named(handler: bytes, words: str, tmp_path: Path) -> None:
    image, _ = rich(Pairing(COMPOSITE, b"luo-v5;block-v1", 2, handler))
    found = verdict(image, tmp_path)
    assert words in " ".join(text for _, _, text in said(found))
    assert (found.decision.state is Decision.UNKNOWN) == (handler == b"memfd-v2;foo-v1")


@pytest.mark.parametrize("bit", range(3))
def test_what_is_no_active_feature_of_luo_is_not_read(bit: int) -> None:
    image = Image()
    files = [File(1, write.memfd(image, b"x", features=feature_header(3)))]
    start = feature_header(7, 0, 7 & ~(1 << bit))
    write.luo_v5(image, [Session(b"vm", files)], [(b"flb", 5, 1)], start=start)
    luo = luo_of(image)
    read = (luo.liveupdate_num is not None, bool(luo.sessions), bool(luo.flbs))
    assert read == tuple(number != bit for number in range(3))


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (feature_header(3, 3, 2), "feature seals is not active, but its field is 0xf"),
        (feature_header(3, 3, 1), "feature folios is not active, but its field is 0x1"),
        (feature_header(1, 3, 3), "features folios are required or active, but not supported"),
    ],
)
def test_a_feature_header_that_contradicts_itself_is_a_finding(
    header: bytes, words: str, tmp_path: Path
) -> None:
    image = Image()
    made = write.memfd(image, b"x", features=header, seals=0xF)
    write.luo_v5(image, [Session(b"vm", [File(1, made)])], start=FEATURES)
    found = said(verdict(image, tmp_path))
    assert [(code, text) for code, level, text in found if level > Severity.WARNING] == [
        ("KHO535", words)
    ]


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda data: bytes(len(data)), id="zeroed"),
        pytest.param(lambda data: b"\xff" + data[1:24] + b"\x01" + data[25:], id="reserved"),
        pytest.param(lambda data: bytes(8) + data[8:], id="nothing supported"),
    ],
)
def test_what_is_no_feature_header_is_no_luo(
    damage: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    image = Image()
    written = write.luo_v5(image, [Session(b"vm")], start=FEATURES)
    image.write(written.blob, damage(image.read(written.blob, written.size)))
    assert "KHO502" in [code for code, _, _ in said(verdict(image, tmp_path))]


# -- lists and unknown roots


def listed(image: Image, strings: bytes) -> Image:
    """The image with a compatible list of its own in place of its root's string."""
    plain = image.root_fdt

    def root_fdt() -> bytes:
        props = [(b"compatible", strings), (b"preserved-memory-map", u64(image.root))]
        assert plain() != b""
        return fdt_blob(Tree(b"", props, image.subnodes))

    image.root_fdt = root_fdt  # type: ignore[method-assign]
    return image


@pytest.mark.parametrize("strings", [b"x\0kho-v4\0", b"x\0kho-v4", b"kho-v9\0kho-v4\0y\0"])
@pytest.mark.parametrize("target", [None, "kho-v4", "linux-7.3"])
def test_any_string_of_the_roots_list_is_enough(
    strings: bytes, target: str | None, tmp_path: Path
) -> None:
    image, _ = rich(PAIRINGS["7.2 and 7.3"])
    kernel = find_target(target) if target else None
    found = verdict(listed(image, strings), tmp_path, kernel)
    assert (said(found), found.decision.state) == ([], Decision.ACCEPTS)


def test_a_blob_that_lists_its_string_second_is_decoded() -> None:
    image = Image(12, "kho-v3")
    data = fdt_blob(Tree(b"", [(b"compatible", b"x\0memblock-v1\0")]))
    image.subnode("memblock", image.blob(data), len(data))
    (blob,) = look(image, image.finish()).blobs
    assert blob.kind == "memblock-v1"


def test_sub_nodes_of_an_unknown_root_are_shown_as_they_stand(tmp_path: Path) -> None:
    image, _ = rich(PAIRINGS["7.2 and 7.3"])
    image.subnodes.append(Tree(b"new", [(b"unheard-of", u64(7))]))
    listed(image, b"kho-v9\0")
    dump, dtb = save(image, tmp_path, image.finish())
    case = examine(str(dump), str(dtb))
    blobs = case.handover.blobs
    assert [blob.name for blob in blobs] == ["LUO", "memblock", "kho_test", "new"]
    assert [(blob.stored, blob.content, blob.preserved) for blob in blobs] == [
        (True, None, None),
        (True, None, None),
        (True, None, None),
        (False, None, None),
    ]
    assert bytes(blobs[0].data[:8]) == b"luo-v5\0\0"
    assert case.handover.faults == ()
    found = judge(case)
    assert [code for code, _, _ in said(found)] == ["KHO104"]
    assert found.decision.state is Decision.UNKNOWN
    shown = in_process("show", dump, dtb, "--full")
    assert (shown.status, "unheard-of = " in shown.stdout, "luo-v5" in shown.stdout) == (
        4,
        True,
        True,
    )
    root = document("show", dump, dtb)["root"]
    assert root["nodes"][3]["properties"][0]["hex"] == u64(7).hex()


def test_an_assumed_abi_shows_all_and_decides_nothing(tmp_path: Path) -> None:
    image, _ = rich(PAIRINGS["7.2 and 7.3"])
    listed(image, b"kho-v9\0")
    found = verdict(image, tmp_path, assume_abi="kho-v4")
    assert [code for code, _, _ in said(found)] == ["KHO104"]
    assert found.decision.state is Decision.UNKNOWN
    files = (tmp_path / "dump.elf", tmp_path / "kho.dtb")
    for extra in ([], ["--assume-abi", "kho-v4"]):
        assert in_process("check", *files, *extra).status == 4


def test_a_luo_of_an_unknown_version_under_an_assumed_root_is_no_panic(tmp_path: Path) -> None:
    """A kernel of an ABI newer than the tool takes what it writes."""
    image, _ = rich(Pairing("kho-v9", b"luo-v9", 2))
    found = verdict(image, tmp_path, assume_abi="kho-v4")
    assert {level for _, level, _ in said(found)} == {Severity.INFO}
    assert "sub-node 'LUO' is not known" in " ".join(text for _, _, text in said(found))
    assert found.decision.state is Decision.UNKNOWN


def test_any_kernel_of_a_root_takes_what_one_of_them_takes() -> None:
    assert kernels_of("kho-v2").files == ("memfd-v1", "memfd-v2")


@pytest.mark.parametrize(("active", "seals"), [(3, 0xF), (2, None)])
def test_seals_are_those_of_a_header_in_which_they_are_active(
    active: int, seals: int | None
) -> None:
    image = Image()
    made = write.memfd(image, b"x", features=feature_header(3, 3, active), seals=0xF)
    write.luo_v5(image, [Session(b"vm", [File(1, made)])], start=FEATURES)
    luo = look(image, image.finish()).blobs[0].content
    assert isinstance(luo, Luo)
    assert [file.content.seals for file in luo.files if isinstance(file.content, Memfd)] == [seals]
