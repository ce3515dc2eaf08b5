"""What a kernel accepts, out of its image: compatible strings, features, release, page size."""

import re
from collections.abc import Iterator

from kho_inspect.abi import LUO_FEATURES
from kho_inspect.errors import UnreadableInputError, unreadable
from kho_inspect.kernels.image import HINT, Image, read_image
from kho_inspect.kernels.package import find_kernels
from kho_inspect.layouts import liveupdate
from kho_inspect.model.kernel_image import Feature, KernelImage

MAX_STRING = 128
MAX_FEATURES = 256
_BANNER = re.compile(rb"Linux version ([!-$&-~][!-~]{0,64}) ")
_ANCHORS = tuple(
    re.compile(anchor)
    for anchor in (rb"-v[0-9]{1,9}[;\0]", rb"_luo_v[0-9]{1,9}\0", rb"-liveupdate\0", rb"-kho\0")
)
"""What compatible strings end with. Searched for first: a kernel is tens of MiB."""
_PARTS = "(;[a-z][a-z0-9_-]{0,31}-v[0-9]{1,9})*"
_KINDS = {
    "root": re.compile(rf"kho-v[0-9]+{_PARTS}"),
    "luo": re.compile(rf"luo-v[0-9]+{_PARTS}"),
    "files": re.compile(rf"(((huge-)?memfd|vfio-pci|iommufd)-v|[a-z_]+_luo_v)[0-9]+{_PARTS}"),
    "others": re.compile(
        rf"(luo-session|luo-flb|memblock|reserve-mem|kho-test|mshv_kho|hugetlb)-v[0-9]+{_PARTS}"
        r"|iommu-liveupdate|pstore-kho"
    ),
}
"""Compatible strings of each kind, of any version."""


def read_kernel(path: str) -> KernelImage:
    """The one kernel that a file, package or directory holds.

    Raises UnreadableInputError when there is none, or several.
    """
    (name, data), *others = find_kernels(path)
    if others:
        names = [name, *(other for other, _ in others)]
        words = f"holds {len(names)} kernels: {', '.join(names[:8])}"
        raise unreadable(path, words, "name one of these files")
    return kernel_of(read_image(data, name), name)


def read_kernels(path: str) -> Iterator[KernelImage | UnreadableInputError]:
    """Every kernel of a file, package or directory; why, for one that cannot be read."""
    try:
        for name, data in find_kernels(path):
            try:
                yield kernel_of(read_image(data, name), name)
            except UnreadableInputError as error:
                yield error
    except UnreadableInputError as error:
        yield error


def kernel_of(image: Image, name: str) -> KernelImage:
    """What a kernel accepts. Raises UnreadableInputError for what holds no kernel's banner."""
    banner = _BANNER.search(image.data)
    if banner is None:
        raise unreadable(name, "holds no kernel: there is no 'Linux version' in it", HINT)
    release = banner[1].decode()
    found: dict[str, list[str]] = {kind: [] for kind in _KINDS}
    for text in sorted(_strings(image.data)):
        kind = next((kind for kind, form in _KINDS.items() if form.fullmatch(text)), None)
        if kind is not None:
            found[kind].append(text)
    table = tuple(_features(image))
    for feature in table:
        found["luo" if feature.name == LUO_FEATURES.compatible else "files"].append(feature.name)
    return KernelImage(
        name=f"Linux {release} ({name})",
        root=next(iter(found["root"]), ""),
        luo=tuple(found["luo"]),
        files=tuple(found["files"]),
        features=tuple((one.name, one.supported) for one in table),
        roots=tuple(found["root"]),
        others=tuple(found["others"]),
        table=table,
        release=release,
        machine=image.machine,
        page_shift=image.page_shift,
    )


def _strings(data: memoryview) -> set[str]:
    """NUL-terminated strings around the anchors, each whole: behind what is not printable."""
    found = set()
    for anchor in _ANCHORS:
        for match in anchor.finditer(data):
            start = max(0, match.start() - MAX_STRING)
            before = re.split(rb"[^ -~]", data[start : match.start()])[-1]
            after = bytes(data[match.start() : match.start() + MAX_STRING])
            if len(before) < match.start() - start or not start:
                found.add((before + after.split(b"\0")[0]).decode("latin-1"))
    return found


def _features(image: Image) -> Iterator[Feature]:
    """The table of features, from its section, or where its magic is in an image without any."""
    table = image.sections.get(liveupdate.FEATURES_SECTION)
    start = liveupdate.FEATURES_MAGIC + liveupdate.FEATURES_VERSION.to_bytes(4, "little")
    size, step = liveupdate.features_header.sizeof(), liveupdate.features_entry.sizeof()
    places = [table[size:]] if table is not None and table[:size] == start else []
    if table is None and not image.sections:
        places = [image.data[at.end() :] for at in re.finditer(re.escape(start), image.data)]
    for place in places[:1]:
        for at in range(0, min(len(place) - step + 1, MAX_FEATURES * step), step):
            entry = liveupdate.features_entry.parse(bytes(place[at : at + step]))
            name, _, rest = entry.name.partition(b"\0")
            if not name.isascii() or not name.decode().isprintable() or not name or any(rest):
                return
            yield Feature(name.decode(), entry.supported, entry.required, entry.active)
