"""``check``, ``explain`` and ``expect`` as they are used: options, forms of output, exit status."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from kho_inspect.rules.engine import BY_CODE, RULES
from tests.support.broken import BROKEN
from tests.support.builder import boot_dtb
from tests.support.captures import HOME, Capture, unpack
from tests.support.cli import DTB, DUMP, REPO, kho_inspect
from tests.support.reference import RAM_END, Reference
from tests.support.running import document, in_process
from tests.support.sarif import check_log

SAMPLE = (REPO / DUMP, REPO / DTB)
HOSTILE = b"\n::error::%0A,<b>&\"']]>\x1b[31m\xe2\x80\xae\xff{0}[x](y)".ljust(64, b"!")
"""A session's name that means something to every form of output."""


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Findings of every severity, in a file of an awkward name."""
    it = Reference()
    for code in ("KHO204", "KHO305", "KHO308", "KHO113", "KHO522", "KHO528"):
        BROKEN[code].damage(it)
    it.image.write(it.sessions[509].entry, HOSTILE)
    folder = tmp_path_factory.mktemp("a,b: 100%")
    dump, dtb = it.write(folder)
    return Path(dump), Path(dtb)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    dump, dtb = Reference().write(tmp_path_factory.mktemp("sound"))
    return Path(dump), Path(dtb)


def put(folder: Path, *codes: str) -> tuple[str, str]:
    it = Reference()
    for code in codes:
        BROKEN[code].damage(it)
    return it.write(folder)


# -- forms of output


def blocked(found: dict[str, Any]) -> dict[str, str]:
    """Code → why, of each rule that could not be applied."""
    groups = found["integrity"]["blocked"]
    return {code: group["reason"] for group in groups for code in group["codes"]}


def test_json(damaged: tuple[Path, Path]) -> None:
    found = document("check", *damaged)
    assert set(found) == {
        "schema_version",
        "source",
        "capture",
        "decision",
        "integrity",
        "expectations",
        "findings",
    }
    assert found["source"] == {"path": str(damaged[0]), "dtb": str(damaged[1])}
    assert found["decision"]["state"] == "panics"
    assert found["integrity"]["state"] == "damaged"
    severities = []
    for one in found["findings"]:
        assert set(one) == {
            "code",
            "severity",
            "message",
            "paddr",
            "path",
            "hint",
            "about",
            "count",
            "places",
        }
        assert [one["places"][0][name] for name in ("message", "paddr", "path")] == [
            one["message"],
            one["paddr"],
            one["path"],
        ]
        assert one["paddr"] is None or re.fullmatch("0x[0-9a-f]+", one["paddr"])
        assert one["hint"] == BY_CODE[one["code"]].hint
        severities.append(one["severity"])
    order = ["fatal", "error", "warning", "info"]
    assert severities == sorted(severities, key=order.index)
    assert set(severities) == set(order)
    assert all(set(group) == {"codes", "reason"} for group in found["integrity"]["blocked"])
    asked_for = {"KHO105", "KHO117", "KHO116", "KHO701", "KHO702", "KHO703", "KHO704", "KHO705"}
    skipped = blocked(found).keys() | asked_for
    integrity = found["integrity"]
    assert integrity["ran"] + integrity["not_applicable"] + len(skipped) == len(RULES)


@pytest.mark.parametrize("form", [["--json"], ["--format", "json"]])
def test_json_both_ways(form: list[str], damaged: tuple[Path, Path]) -> None:
    result = in_process("check", *damaged, *form)
    assert result.status == 1
    assert json.loads(result.stdout) == document("check", *damaged)


def test_what_is_not_checked_says_why() -> None:
    """The sample has no scratch table: its setup_data entry's was zeroed, or is not stored."""
    found = document("check", *SAMPLE)
    why = blocked(found)
    if why:
        assert set(why) == {"KHO210", *(f"KHO30{digit}" for digit in "34567")}
        assert all("--scratch" in one for one in why.values())


@pytest.mark.parametrize("level", ["fatal", "error", "warning", "info", "never"])
def test_junit(level: str, damaged: tuple[Path, Path]) -> None:
    result = in_process("check", *damaged, "--format", "junit", "--fail-on", level)
    (suite,) = ElementTree.fromstring(result.stdout)
    assert suite.tag == "testsuite"
    cases = suite.findall("testcase")
    assert [case.get("name") for case in cases] == [rule.code for rule in RULES]
    counts = {
        "tests": len(cases),
        "failures": len(suite.findall("testcase/failure")),
        "skipped": len(suite.findall("testcase/skipped")),
        "errors": len(suite.findall("testcase/error")),
    }
    assert {name: int(suite.get(name, "")) for name in counts} == counts
    order = ["info", "warning", "error", "fatal", "never"]
    wanted = {
        one["code"]
        for one in document("check", *damaged)["findings"]
        if order.index(one["severity"]) >= order.index(level)
    }
    failed = {case.get("name") for case in cases if case.find("failure") is not None}
    assert failed == wanted
    assert result.status == bool(wanted)
    skipped = [case for case in cases if case.find("skipped") is not None]
    assert len(skipped) == (
        document("check", *damaged)["integrity"]["not_applicable"]
        + len(blocked(document("check", *damaged)))
    )


def test_sarif(damaged: tuple[Path, Path]) -> None:
    result = in_process("check", *damaged, "--format", "sarif")
    assert result.status == 1
    log = json.loads(result.stdout)
    check_log(log)
    (run,) = log["runs"]
    findings = document("check", *damaged)["findings"]
    levels = {"fatal": "error", "error": "error", "warning": "warning", "info": "note"}
    assert [(one["ruleId"], one["level"]) for one in run["results"]] == [
        (one["code"], levels[one["severity"]]) for one in findings
    ]
    for one, finding in zip(run["results"], findings, strict=True):
        (location,) = one["locations"]
        address = location["physicalLocation"].get("address", {})
        assert address.get("absoluteAddress") == (
            None if finding["paddr"] is None else int(finding["paddr"], 16)
        )
        assert finding["message"] in one["message"]["text"]


def test_sarif_of_a_sound_image(sound: tuple[Path, Path]) -> None:
    result = in_process("check", *sound, "--format", "sarif")
    log = json.loads(result.stdout)
    check_log(log)
    assert (result.status, log["runs"][0]["results"]) == (0, [])


@pytest.mark.parametrize("code", ["KHO414", "KHO505", "KHO204"])
def test_sarif_of_an_address_beyond_63_bits(code: str, tmp_path: Path) -> None:
    it = Reference()
    wild = (1 << 64) - 8
    if code == "KHO414":
        it.image.write_u64(it.memfds[414].chunk + 16, wild)
    elif code == "KHO505":
        it.image.write_u64(it.sessions[505].entry + 64, wild)
    else:
        it.image.write_u64(it.slot(it.key(it.start("r204"))), wild)
    result = in_process("check", *it.write(tmp_path), "--format", "sarif", "--select", code)
    log = json.loads(result.stdout)
    check_log(log)
    (found,) = log["runs"][0]["results"]
    assert "address" not in found["locations"][0]["physicalLocation"]


def test_the_sarif_checks_see_what_is_wrong() -> None:
    result = kho_inspect("check", DUMP, DTB, "--target", "v4", "--format", "sarif")
    log = json.loads(result.stdout)
    check_log(log)
    for path, value in (
        (("version",), "2.0.0"),
        (("runs", 0, "results", 0, "level"), "fatal"),
        (("runs", 0, "results", 0, "ruleIndex"), "0"),
        (("runs", 0, "results", 0, "code"), "KHO105"),
        (("runs", 0, "tool", "driver", "rules", 0, "help"), "text"),
    ):
        wrong = json.loads(result.stdout)
        inner = wrong
        for step in path[:-1]:
            inner = inner[step]
        inner[path[-1]] = value
        with pytest.raises(AssertionError):
            check_log(wrong)


def test_github_commands_are_escaped(damaged: tuple[Path, Path]) -> None:
    result = in_process("check", *damaged, "--format", "github")
    assert result.status == 1
    findings = document("check", *damaged)["findings"]
    shown = result.stdout.splitlines()
    lines, statements = shown[: len(findings)], shown[len(findings) :]
    stated = [line.split()[1] for line in statements if not line.startswith(" ")]
    assert stated == ["capture", "decision", "integrity"]
    path = str(damaged[0]).replace("%", "%25").replace(",", "%2C").replace(":", "%3A")
    levels = {"fatal": "error", "error": "error", "warning": "warning", "info": "notice"}
    for line, finding in zip(lines, findings, strict=True):
        title = f"{finding['code']} {finding['severity']}"
        level = levels[finding["severity"]]
        assert line.startswith(f"::{level} file={path},title={title}::")
        assert line.isprintable()
        assert not re.search("%(?!25|2C|3A|0A|0D)", line)
    (named,) = [line for line in lines if "KHO509" in line]
    assert r"'\n::error::%250A" in named


@pytest.mark.parametrize("form", ["text", "json", "junit", "sarif", "github"])
def test_no_form_lets_a_name_through_raw(form: str, damaged: tuple[Path, Path]) -> None:
    result = in_process("check", *damaged, "--format", form)
    assert result.stderr == ""
    assert "\x1b" not in result.stdout
    assert "\u202e" not in result.stdout
    assert "\n::error::" not in result.stdout.partition("\n")[2] or form == "github"


def test_text(damaged: tuple[Path, Path], sound: tuple[Path, Path]) -> None:
    result = kho_inspect("check", *damaged)
    assert result.status == 1
    assert "✘ integrity  damaged" in result.stdout
    lines = result.stdout.splitlines()
    headings = [line for line in lines if line in ("fatal", "error", "warning", "info")]
    assert headings == ["fatal", "error", "warning", "info"]
    assert "Traceback" not in result.stderr
    assert "✔ integrity  no defect found" in kho_inspect("check", *sound).stdout


# -- targets and refusals


def unpacked(name: str, folder: Path) -> Capture:
    packed = HOME / name / "dump.raw.xz"
    if not packed.is_file():
        pytest.skip(f"no capture at {packed}: set KHO_CAPTURES to the folder of captures")
    unpack(packed, folder / "dump.raw")
    return Capture(name, folder / "dump.raw")


@pytest.fixture(scope="module")
def v3(tmp_path_factory: pytest.TempPathFactory) -> Capture:
    return unpacked("x86_64-kho-v3", tmp_path_factory.mktemp("v3"))


@pytest.fixture(scope="module")
def arm64(tmp_path_factory: pytest.TempPathFactory) -> Capture:
    return unpacked("arm64-16k-kho-v4", tmp_path_factory.mktemp("arm64"))


@pytest.mark.parametrize("target", ["kho-v4", "v4", "linux-7.2", "linux-7.3", "7.3.4"])
def test_a_kernel_of_another_abi_refuses(target: str, v3: Capture) -> None:
    result = in_process("check", v3.dump, v3.dtb, "--target", target)
    assert result.status == 1
    said = " ".join(result.stdout.split())
    assert "disabling KHO revival: incompatible with 'kho-v4'" in said
    found = document("check", v3.dump, v3.dtb, "--target", target)["findings"]
    assert [one["code"] for one in found] == ["KHO105"]


@pytest.mark.parametrize("target", ["kho-v3", "v3", "linux-7.1", "linux-7.1.13", "7.1"])
def test_a_kernel_of_the_same_abi_takes_it(target: str, v3: Capture) -> None:
    result = in_process("check", v3.dump, v3.dtb, "--target", target)
    assert (result.status, result.stderr) == (0, "")


@pytest.mark.parametrize("target", ["kho-v9", "linux-5.4", "", "linux-"])
def test_a_target_that_nobody_knows(target: str, sound: tuple[Path, Path]) -> None:
    result = in_process("check", *sound, "--target", target)
    assert result.status == 2
    assert result.stdout == ""


@pytest.mark.parametrize("code", ["KHO101", "KHO102", "KHO104", "KHO106", "KHO107", "KHO108"])
def test_what_a_kernel_would_refuse_is_a_finding(code: str, tmp_path: Path) -> None:
    result = in_process("check", *put(tmp_path, code))
    # What a file lacks may be the capture's fault alone; who reads an unknown ABI is unknown.
    cannot_judge = code in ("KHO102", "KHO104")
    assert (result.status, result.stderr) == (4 if cannot_judge else 1, "")
    assert code in result.stdout


@pytest.mark.parametrize("code", ["KHO101", "KHO106", "KHO107", "KHO108"])
def test_refusals_are_in_the_kernel_s_words(code: str, tmp_path: Path) -> None:
    (finding,) = [
        one for one in document("check", *put(tmp_path, code))["findings"] if one["code"] == code
    ]
    assert finding["message"].startswith("disabling KHO revival: ")


@pytest.mark.parametrize("data", [b"", b"\x7fELF" + bytes(64), b"hello", bytes(4096)])
def test_a_dtb_that_is_no_fdt_is_no_input(
    data: bytes, tmp_path: Path, sound: tuple[Path, Path]
) -> None:
    dtb = tmp_path / "kho.dtb"
    dtb.write_bytes(data)
    result = in_process("check", sound[0], dtb)
    assert (result.status, result.stdout) == (3, "")
    assert result.stderr.startswith("kho-inspect: ")
    assert len(result.stderr.splitlines()) <= 2


def test_a_boot_dtb_leads_to_the_kho_dtb(arm64: Capture) -> None:
    boot = HOME / arm64.name / "boot.dtb"
    found = document("check", arm64.dump, boot, "--base", hex(arm64.base))
    assert found["findings"] == []
    assert found["integrity"]["state"] == "no-defect"
    (where,) = found["capture"]["reasons"]
    assert str(boot) in where


def test_a_boot_dtb_that_leads_nowhere(arm64: Capture, sound: tuple[Path, Path]) -> None:
    result = in_process("check", sound[0], HOME / arm64.name / "boot.dtb")
    assert (result.status, result.stdout) == (3, "")
    assert "/chosen" in result.stderr


@pytest.mark.parametrize("missing", [0, 1])
def test_files_that_are_not_there(missing: int, sound: tuple[Path, Path]) -> None:
    paths = [*sound]
    paths[missing] = Path("/nonexistent")
    result = in_process("check", *paths)
    assert (result.status, result.stdout) == (3, "")
    assert "/nonexistent" in result.stderr


# -- choosing rules


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (["--select", "KHO204"], {"KHO204"}),
        (["--select", "kho204"], {"KHO204"}),
        (["--select", "204"], {"KHO204"}),
        (["--select", "KHO2"], {"KHO204"}),
        (["--select", "KHO2xx"], {"KHO204"}),
        (["--select", "KHO2XX,kho3xx"], {"KHO204", "KHO305", "KHO308"}),
        (["--select", "KHO2", "--select", "KHO308"], {"KHO204", "KHO308"}),
        (["--select", "KHO3", "--ignore", "KHO305"], {"KHO308"}),
        (["--ignore", "KHO1,KHO2,KHO3"], {"KHO509", "KHO522", "KHO528"}),
        (["--ignore", "KHO"], set()),
        (["--select", "KHO6"], set()),
    ],
)
def test_select_and_ignore(
    options: list[str], wanted: set[str], damaged: tuple[Path, Path]
) -> None:
    found = document("check", *damaged, *options)
    assert {one["code"] for one in found["findings"]} == wanted
    # Without a finding nothing follows: its composite string has a part that is not known.
    assert in_process("check", *damaged, *options).status == (1 if wanted else 4)


@pytest.mark.parametrize("option", ["--select", "--ignore"])
@pytest.mark.parametrize("code", ["KHO999", "KHO8", "E501", "KHO204,nonsense"])
def test_rules_that_are_none(option: str, code: str, sound: tuple[Path, Path]) -> None:
    result = in_process("check", *sound, option, code)
    assert (result.status, result.stdout) == (2, "")
    assert "explain --all" in result.stderr


# -- scratch


def test_scratch_by_hand(sound: tuple[Path, Path]) -> None:
    it = Reference()
    start = it.start("r303")
    result = document("check", *sound, "--scratch", f"{start:#x}+4K", "--scratch", "1792M+16M")
    assert _without_contradiction(result, "paddr") == [("KHO303", hex(start))]
    outside = document("check", *sound, "--scratch", f"{RAM_END:#x}+1M")
    assert _without_contradiction(outside, "path") == [("KHO307", "--scratch")]


def _without_contradiction(result: dict[str, Any], field: str) -> list[tuple[str, str]]:
    """The findings besides KHO311, which must be there: the dump's own table says otherwise."""
    found = [(one["code"], one[field]) for one in result["findings"]]
    assert [code for code, _ in found].count("KHO311") == 1
    return [one for one in found if one[0] != "KHO311"]


@pytest.mark.parametrize("area", ["", "0x1000", "0x1000+", "+4K", "0x1000+0", "1+2+3", "-1+4K"])
def test_scratch_that_is_no_area(area: str, sound: tuple[Path, Path]) -> None:
    result = in_process("check", *sound, "--scratch", area)
    assert (result.status, result.stdout) == (2, "")


def test_scratch_from_the_boot_dtb_of_a_capture(arm64: Capture) -> None:
    boot = HOME / arm64.name / "boot.dtb"
    base = hex(arm64.base)
    found = document("check", arm64.dump, arm64.dtb, "--base", base, "--boot-dtb", boot)
    assert (found["findings"], found["integrity"]["blocked"]) == ([], [])


def test_scratch_from_a_boot_dtb(tmp_path: Path) -> None:
    it = Reference()
    table, start = it.image.alloc(), it.start("r303")
    it.image.write_u64(table, start, 4096)
    boot = tmp_path / "boot.dtb"
    boot.write_bytes(boot_dtb(it.fdt, table, 16))
    found = document("check", *it.write(tmp_path), "--boot-dtb", boot)
    assert _without_contradiction(found, "paddr") == [("KHO303", hex(start))]


def test_a_boot_dtb_that_is_none(tmp_path: Path, sound: tuple[Path, Path]) -> None:
    (tmp_path / "boot.dtb").write_bytes(b"no FDT")
    result = in_process("check", *sound, "--boot-dtb", tmp_path / "boot.dtb")
    assert (result.status, result.stdout) == (3, "")
    assert "boot.dtb" in result.stderr
