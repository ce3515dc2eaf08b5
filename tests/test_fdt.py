"""The device tree door: lossless for what is sound, FdtError and nothing else for the rest."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kho_inspect import fdt
from kho_inspect.errors import FdtError, TruncatedFdtError
from kho_inspect.model.fdt_node import FdtNode
from tests.support.builder import Tree, fdt_blob, fdt_container, u32s

BEGIN, END_NODE, PROP, NOP, END = (u32s(token) for token in (1, 2, 3, 4, 9))
ROOT = BEGIN + u32s(0)
SOUND = ROOT + END_NODE + END

names = st.binary(min_size=1, max_size=12).map(lambda name: name.replace(b"\0", b"\1"))
values = st.one_of(st.binary(max_size=40), st.binary(min_size=1, max_size=1))
props = st.lists(st.tuples(names, values), max_size=5)
trees = st.recursive(
    st.tuples(names, props).map(lambda parts: Tree(*parts)),
    lambda inner: st.tuples(names, props, st.lists(inner, max_size=4)).map(
        lambda parts: Tree(*parts)
    ),
    max_leaves=12,
)


def text(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")


def same(node: FdtNode, tree: Tree) -> bool:
    return (
        node.name == text(tree.name)
        and [(prop.name, prop.data) for prop in node.props]
        == [(text(name), value) for name, value in tree.props]
        and len(node.children) == len(tree.children)
        and all(same(child, sub) for child, sub in zip(node.children, tree.children, strict=True))
    )


@given(trees)
def test_every_byte_of_names_and_values_comes_back(tree: Tree) -> None:
    assert same(fdt.parse(fdt_blob(tree)), tree)


@given(trees, st.binary(max_size=64))
def test_bytes_past_the_end_are_ignored(tree: Tree, junk: bytes) -> None:
    assert same(fdt.parse(memoryview(fdt_blob(tree) + junk)), tree)


def test_duplicates_and_their_order_are_kept() -> None:
    twice = ((b"a", b"1"), (b"b", b""), (b"a", b"2"))
    node = fdt.parse(fdt_blob(Tree(b"", twice, [Tree(b"n"), Tree(b"n", [(b"x", b"y")])])))
    assert [(prop.name, prop.data) for prop in node.props] == [("a", b"1"), ("b", b""), ("a", b"2")]
    assert [child.name for child in node.children] == ["n", "n"]
    assert node.prop("a") == b"1"
    first = node.child("n")
    assert first is not None
    assert first.props == ()


def test_property_accessors_check_lengths() -> None:
    tree = [(b"q", struct.pack("<Q", 7)), (b"l", struct.pack("<I", 9)), (b"s", b"a\xffb\0c\0")]
    node = fdt.parse(fdt_blob(Tree(b"", tree)))
    assert (node.u64("q"), node.u64("l"), node.u64("none")) == (7, None, None)
    assert [node.integer(name, 4) for name in ("l", "q", "none")] == [9, None, None]
    assert (node.string("s"), node.string("none")) == ("a\\xffb", None)


def test_a_one_byte_value_is_plain_bytes() -> None:
    node = fdt.parse(fdt_blob(Tree(b"", [(b"p", b"\xe9")])))
    assert type(node.props[0].data) is bytes


def test_a_node_without_a_name_is_no_slash() -> None:
    node = fdt.parse(fdt_blob(Tree(b"", (), [Tree(b""), Tree(b"/")])))
    assert [child.name for child in node.children] == ["", "/"]


def test_nops_are_passed_over() -> None:
    structure = NOP + ROOT + NOP + END_NODE + NOP + END
    assert fdt.parse(fdt_container(structure)).children == ()


def prop(length: int, name_offset: int, value: bytes = b"") -> bytes:
    return PROP + u32s(length, name_offset) + value


VIOLATIONS: dict[str, bytes] = {
    "no root": fdt_container(END),
    "two roots": fdt_container(ROOT + END_NODE + ROOT + END_NODE + END),
    "node left open": fdt_container(ROOT + END),
    "node closed twice": fdt_container(ROOT + END_NODE + END_NODE + END),
    "no end token": fdt_container(ROOT + END_NODE),
    "empty structure": fdt_container(b""),
    "token cut": fdt_container(ROOT + END_NODE + b"\0\0"),
    "unknown token": fdt_container(ROOT + u32s(7) + END_NODE + END),
    "property before root": fdt_container(prop(0, 0) + SOUND, b"x\0"),
    "property too long": fdt_container(ROOT + prop(4096, 0) + END_NODE + END, b"x\0"),
    "property of 4 GiB": fdt_container(ROOT + prop(0xFFFFFFFF, 0) + END_NODE + END, b"x\0"),
    "property header cut": fdt_container(ROOT + PROP + u32s(0), b"x\0"),
    "property name past strings": fdt_container(ROOT + prop(0, 2) + END_NODE + END, b"x\0"),
    "property name open": fdt_container(ROOT + prop(0, 0) + END_NODE + END, b"x"),
    "node name open": fdt_container(BEGIN + b"abcd"),
    "node name of 8 KiB": fdt_container(BEGIN + b"n" * 8191 + b"\0" + END_NODE + END),
    "reservations open": fdt_container(SOUND, reservations=b"\1" * 16),
    "old version": fdt_container(SOUND, version=16),
    "needs a newer reader": fdt_container(SOUND, version=18, last_compatible=18),
}


def with_header(index: int, value: int) -> bytes:
    blob = bytearray(fdt_container(SOUND))
    blob[4 * index : 4 * index + 4] = u32s(value)
    return bytes(blob)


HEADERS = {
    "magic": (0, 0xEDFE0DD0),
    "totalsize below header": (1, 39),
    "totalsize huge": (1, 0xFFFFFFFF),
    "totalsize cuts the blocks": (1, 48),
    "struct outside": (2, 4096),
    "struct unaligned": (2, 58),
    "struct in header": (2, 0),
    "strings outside": (3, 4096),
    "strings in header": (3, 8),
    "reservations outside": (4, 4096),
    "reservations unaligned": (4, 44),
    "strings size": (8, 0xFFFFFFFF),
    "struct size": (9, 0xFFFFFFF0),
}
VIOLATIONS |= {name: with_header(*change) for name, change in HEADERS.items()}


@pytest.mark.parametrize("name", VIOLATIONS)
def test_each_violation_is_refused_with_its_offset(name: str) -> None:
    blob = VIOLATIONS[name]
    with pytest.raises(FdtError) as caught:
        fdt.parse(blob, source="some.dtb")
    assert not isinstance(caught.value, TruncatedFdtError)
    assert 0 <= caught.value.offset <= 1 << 32
    assert caught.value.source == "some.dtb"


@pytest.mark.parametrize(
    ("name", "what", "length"),
    [
        ("property name open", "property name", 1),
        ("node name open", "node name", 4),
        ("node name of 8 KiB", "node name", 4096),
    ],
)
def test_an_open_name_is_said_with_the_bytes_that_were_searched(
    name: str, what: str, length: int
) -> None:
    with pytest.raises(FdtError, match=f"{what} does not end within {length} bytes"):
        fdt.parse(VIOLATIONS[name])


@pytest.mark.parametrize("kept", range(12))
def test_a_cut_token_is_refused_at_the_cell_that_is_missing(kept: int) -> None:
    blob = fdt_container(ROOT + prop(0, 0)[:kept], b"x\0")
    start = struct.unpack_from(">I", blob, 8)[0] + len(ROOT)
    with pytest.raises(FdtError, match="in the middle of the tree") as caught:
        fdt.parse(blob)
    assert caught.value.offset == start + kept // 4 * 4


@pytest.mark.parametrize("length", [0, 3, 4, 39])
def test_less_than_a_header_is_refused(length: int) -> None:
    with pytest.raises(FdtError, match="too few"):
        fdt.parse(fdt_container(SOUND)[:length])


@pytest.mark.parametrize(("version", "last"), [(17, 17), (18, 16), (18, 17), (0xFFFFFFFF, 16)])
def test_a_backwards_compatible_version_is_read(version: int, last: int) -> None:
    blob = fdt_container(SOUND, version=version, last_compatible=last)
    assert fdt.parse(blob).props == ()


@given(st.data())
def test_a_blob_cut_after_its_header_is_called_truncated(data: st.DataObject) -> None:
    blob = fdt_blob(Tree(b"", [(b"compatible", b"kho-v4\0")], [Tree(b"LUO")]))
    have = data.draw(st.integers(40, len(blob) - 1))
    with pytest.raises(TruncatedFdtError) as caught:
        fdt.parse(blob[:have])
    assert (caught.value.totalsize, caught.value.have) == (len(blob), have)


@settings(max_examples=400)
@given(
    trees,
    st.lists(st.tuples(st.integers(0, 4095), st.integers(0, 255)), min_size=1, max_size=6),
    st.integers(0, 4096),
)
def test_mutations_raise_nothing_but_fdt_error(
    tree: Tree, flips: list[tuple[int, int]], cut: int
) -> None:
    blob = bytearray(fdt_blob(tree))
    for at, value in flips:
        blob[at % len(blob)] = value
    try:
        fdt.parse(bytes(blob[:cut] if cut > len(blob) // 2 else blob))
    except FdtError as error:
        assert error.offset >= 0


@settings(max_examples=200)
@given(st.lists(st.sampled_from([BEGIN, END_NODE, PROP, NOP, END, u32s(0), u32s(1, 0)])))
def test_any_sequence_of_tokens_raises_nothing_but_fdt_error(tokens: list[bytes]) -> None:
    try:
        fdt.parse(fdt_container(ROOT + b"".join(tokens) + END, b"name\0"))
    except FdtError as error:
        assert error.offset >= 0


def test_nesting_is_bounded() -> None:
    def nested(depth: int) -> bytes:
        return fdt_container((BEGIN + b"n\0\0\0") * depth + END_NODE * depth + END)

    assert fdt.parse(nested(64)).children
    with pytest.raises(FdtError, match="nest deeper"):
        fdt.parse(nested(65))
    with pytest.raises(FdtError, match="nest deeper"):
        fdt.parse(nested(200_000))


@pytest.mark.parametrize("length", [4000, 60_000])
def test_a_long_name_shared_by_many_properties_is_refused(length: int) -> None:
    many = prop(0, 0) * 20_000
    blob = fdt_container(ROOT + many + END_NODE + END, b"n" * length + b"\0")
    with pytest.raises(FdtError, match=r"name.*bytes"):
        fdt.parse(blob)


def test_tokens_are_bounded() -> None:
    with pytest.raises(FdtError, match="more than"):
        fdt.parse(fdt_container(ROOT + NOP * (1 << 19) + END_NODE + END))
