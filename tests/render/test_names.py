"""Spelled names: read back they are the very owner, and nothing in them moves the cursor."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kho_inspect.model.identity import ClaimKind, Owner, Path, Place, Step, StepKind, Subsystem
from kho_inspect.model.selector import parse_owner
from kho_inspect.render.names import item_name, message_text, owner_name, path_name, place_name

ALL_ONES = (1 << 64) - 1
NUMBERED = (Subsystem.LUO, Subsystem.KHO_TEST)
"""Whose owners have a number: a token, or that of a folio."""

odd = st.one_of(
    st.sampled_from("/%#→ \0\t\n\x1b\x7f\x85\u202e\u2066\u200b\ufeff\ud800\udc80\udfff"),
    st.characters(categories=["Cc", "Cf", "Cs"]),
    st.characters(),
)
alike = st.sampled_from(["a", "/", "%", "#", "2", "F", "%2F", "0x1", "1", "→", " → ", "\n", "%0A"])
"""Pieces of names that would be taken for each other where they are not escaped."""


def owners_named(names: st.SearchStrategy[str]) -> st.SearchStrategy[Owner]:
    """Owners of any kind, whose parts have these names."""
    numbers = st.one_of(st.integers(0, 17), st.integers(0, ALL_ONES))
    others = st.sampled_from([one for one in Subsystem if one not in NUMBERED])
    luo, test = (Owner(subsystem) for subsystem in NUMBERED)
    return st.one_of(
        st.just(luo),
        names.map(luo.of),
        st.tuples(names, numbers).map(lambda parts: luo.of(*parts)),
        st.just(test),
        numbers.map(test.of),
        st.tuples(others, st.lists(names, max_size=3)).map(lambda of: Owner(of[0]).of(*of[1])),
    )


any_names = st.text(odd, max_size=8)
any_owners = owners_named(any_names)
like_owners = owners_named(st.lists(alike, max_size=3).map("".join))


@settings(max_examples=500)
@given(any_owners)
@example(Owner(Subsystem.SUBNODE, ("",)))
@example(Owner(Subsystem.SUBNODE, ("LUO/vm/0x1",)))
@example(Owner(Subsystem.SUBNODE, ("\ud83d\ude00",)))
@example(Owner(Subsystem.LUO, ("\udcff%", ALL_ONES)))
@example(Owner(Subsystem.LUO, ("é\n→", 0)))
def test_a_spelled_owner_reads_back_and_is_printable(owner: Owner) -> None:
    name = owner_name(owner)
    assert name.isprintable()
    assert parse_owner(name) == owner


@settings(max_examples=1000)
@given(like_owners, like_owners, st.integers(1, 3), st.integers(1, 3))
def test_two_owners_never_share_a_spelling(
    first: Owner, second: Owner, number: int, other: int
) -> None:
    assert (owner_name(first) == owner_name(second)) == (first == second)
    same = (first, number) == (second, other)
    assert (item_name(first, number) == item_name(second, other)) == same


selectors = st.tuples(
    st.sampled_from([*Subsystem]).map(lambda subsystem: subsystem.value),
    st.lists(st.one_of(alike, odd, st.sampled_from(["%FF", "_", "-", "+", "vm/"])), max_size=6),
).map(lambda given: "/".join([given[0], "".join(given[1])]))


@settings(max_examples=500)
@given(st.one_of(selectors, any_names))
@example("LUO/%FF")
@example("blob/%ED%A0")
@example("LUO/vm/" + "9" * 5000)
@example("LUO/vm/٣")
@example("LUO/vm/-1")
@example("LUO/vm/1_0")
@example("kho_test/ 1")
def test_any_text_names_an_owner_or_none(text: str) -> None:
    found = parse_owner(text)
    assert found is None or parse_owner(owner_name(found)) == found


@pytest.mark.parametrize(
    ("text", "owner"),
    [
        ("LUO", Owner(Subsystem.LUO)),
        ("LUO/vm/0x1001", Owner(Subsystem.LUO, ("vm", 0x1001))),
        ("LUO/vm/4097", Owner(Subsystem.LUO, ("vm", 0x1001))),
        ("LUO/vm%2fa/0X1001", Owner(Subsystem.LUO, ("vm/a", 0x1001))),
        ("LUO/vm/a/0x1001", None),
        ("LUO/vm/18446744073709551615", Owner(Subsystem.LUO, ("vm", ALL_ONES))),
        ("kho_test/3", Owner(Subsystem.KHO_TEST, (3,))),
        ("kho_test/x", None),
        ("kho_test/-1", None),
        ("LUO/vm/-1", None),
        ("LUO/vm/1_0", None),
        ("blob/", Owner(Subsystem.SUBNODE, ("",))),
        ("blob/%FF", None),
        ("pci", None),
        ("", None),
    ],
)
def test_what_a_user_may_write(text: str, owner: Owner | None) -> None:
    assert parse_owner(text) == owner


# -- places, paths and sentences

named_steps = st.tuples(
    st.sampled_from(
        [StepKind.SUBNODE, StepKind.NODE, StepKind.PROPERTY, StepKind.REGION, StepKind.EXPECTATION]
    ),
    any_names,
).map(lambda step: Step(*step, of=7 if step[0] is StepKind.EXPECTATION else None))


@given(st.lists(st.one_of(named_steps, any_owners.map(lambda owner: Step(StepKind.OWNER, owner)))))
def test_no_name_in_a_path_moves_the_cursor(steps: list[Step]) -> None:
    assert path_name(tuple(steps)).isprintable()


@given(any_owners, st.sampled_from(ClaimKind), st.none() | st.integers(0, 9))
def test_no_name_in_a_sentence_moves_the_cursor(
    owner: Owner, kind: ClaimKind, piece: int | None
) -> None:
    place = Place(owner, kind, piece)
    said = message_text(("claimed by ", owner, " and ", place))
    assert said == f"claimed by {owner_name(owner)} and {place_name(place)}"
    assert said.isprintable()


like_names = st.lists(alike, max_size=3).map("".join)
like_paths: st.SearchStrategy[Path] = st.lists(
    st.one_of(
        like_names.map(lambda name: Step(StepKind.SUBNODE, name)),
        like_names.map(lambda name: Step(StepKind.NODE, name)),
        st.integers(0, 2).map(lambda number: Step(StepKind.SESSION, number)),
    ),
    max_size=3,
).map(tuple)


@settings(max_examples=500)
@given(like_paths, like_paths)
def test_two_paths_never_share_a_spelling(first: Path, second: Path) -> None:
    assert (path_name(first) == path_name(second)) == (first == second)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ((), ""),
        ((Step(StepKind.FDT), Step(StepKind.PROPERTY, "compatible")), None),
        (
            (
                Step(StepKind.SUBNODE, "LUO"),
                Step(StepKind.SESSION, 2),
                Step(StepKind.FILE, 0),
                Step(StepKind.FOLIOS),
                Step(StepKind.CHUNK, 3),
            ),
            "sub-node LUO → session 2 → file 0 → folios → chunk 3",
        ),
        (
            Place(Owner(Subsystem.LUO, ("vm-alpha", 0x1001)), ClaimKind.FOLIO, 3).path,
            "LUO/vm-alpha/0x1001 → folio 3",
        ),
        (Place(Owner(Subsystem.KHO), ClaimKind.ROOT_FDT).path, "KHO → root FDT"),
        ((Step(StepKind.EXPECTATION, "a/b\n.toml", 7),), "a/b%0A.toml:7"),
    ],
)
def test_paths_read_like_this(path: Path, name: str | None) -> None:
    assert path_name(path) == ("root FDT → property compatible" if name is None else name)


# -- wholes and parts


def test_an_owner_is_within_itself_and_all_that_it_is_a_part_of() -> None:
    file = Owner(Subsystem.LUO, ("vm", 0x1001))
    ways = [file, Owner(Subsystem.LUO, ("vm",)), Owner(Subsystem.LUO)]
    for whole in ways:
        assert file.within(whole)
        assert not whole.within(file) or whole == file
    assert not file.within(Owner(Subsystem.LUO, ("vm", 0x1002)))
    assert not file.within(Owner(Subsystem.LUO, ("v",)))
    assert not file.within(Owner(Subsystem.SUBNODE))
    assert not Owner(Subsystem.SUBNODE, ("LUO",)).within(Owner(Subsystem.LUO))
    assert not Owner(Subsystem.LUO, ("vm",)).within(Owner(Subsystem.RESERVE_MEM, ("vm",)))


@given(any_owners, any_names)
def test_a_part_is_within_its_whole(owner: Owner, name: str) -> None:
    part = owner.of(name)
    assert part.within(owner)
    assert not owner.within(part)
    assert part.within(part.top)
    assert part.top == (owner.top if owner.parts else part.top)


@pytest.mark.parametrize(
    ("owner", "top"),
    [
        (Owner(Subsystem.LUO, ("vm", 0x1001)), Owner(Subsystem.LUO)),
        (Owner(Subsystem.LUO), Owner(Subsystem.LUO)),
        (Owner(Subsystem.KHO_TEST, (3,)), Owner(Subsystem.KHO_TEST)),
        (Owner(Subsystem.RESERVE_MEM, ("trace",)), Owner(Subsystem.RESERVE_MEM)),
        (Owner(Subsystem.SUBNODE, ("pci",)), Owner(Subsystem.SUBNODE, ("pci",))),
        (Owner(Subsystem.SUBNODE, ("pci", "x")), Owner(Subsystem.SUBNODE, ("pci",))),
    ],
)
def test_the_top_of_an_owner_is_its_subsystem_or_foreign_sub_node(owner: Owner, top: Owner) -> None:
    assert owner.top == top
