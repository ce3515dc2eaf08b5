"""From a kernel file to the kernel in it: vmlinux, bzImage, arm64 Image, EFI zboot, compressed."""

from typing import NamedTuple

from kho_inspect.errors import unreadable
from kho_inspect.kernels.unpacking import find_method, unpack
from kho_inspect.layouts import elf
from kho_inspect.layouts import kernel_image as layout

MAX_DEPTH = 3
"""Wrappings around a kernel: zboot in gzip, say."""
HEAD = 1024
"""Bytes that tell every kind of file."""
MAX_SECTIONS = 1024
MAX_NAME = 64
"""Bytes of a section's name."""
MACHINES = {62: "x86_64", 183: "arm64"}
"""e_machine of the architectures that have KHO."""
X86_PAGE_SHIFT = 12
HINT = "name a vmlinux, bzImage, arm64 Image or EFI zboot file, or a .deb or directory with one"


class Image(NamedTuple):
    """A kernel as it stands in memory, or as an ELF file."""

    data: memoryview
    machine: str | None
    page_shift: int | None
    """None where the image does not say."""
    sections: dict[bytes, memoryview]
    """Of an ELF file, by name."""


def read_image(data: memoryview, path: str) -> Image:
    """The kernel in a file. Raises UnreadableInputError with what is wrong."""
    wrapping = ""
    for _ in range(MAX_DEPTH + 1):
        head = bytes(data[:HEAD]).ljust(HEAD, b"\0")
        if head.startswith(elf.ELFMAG):
            return _read_elf(data, path)
        arm64 = layout.arm64_image_header.parse(head)
        if arm64.magic == layout.ARM64_MAGIC:
            return Image(data, "arm64", layout.ARM64_PAGE_SHIFTS.get(arm64.flags >> 1 & 3), {})
        bzimage, zboot = layout.x86_setup_header.parse(head), layout.efi_zboot_header.parse(head)
        if bzimage.header == layout.HDRS:
            wrapping = "a bzImage"
            start = ((bzimage.setup_sects or 4) + 1) * 512 + bzimage.payload_offset
            size = bzimage.payload_length if bzimage.version >= layout.PAYLOAD_VERSION else 0
            data = data[start : start + size]
        elif zboot.magic == layout.ZBOOT_MAGIC:
            wrapping = "an EFI zboot image"
            size = zboot.payload_size
            data = data[zboot.payload_offset :][:size]
        elif (method := find_method(head)) is not None:
            wrapping, size = f"compressed with {method.name}", 0
            data = memoryview(unpack(data, method, path))
        else:
            what = f"{wrapping}, but what it holds is no kernel" if wrapping else "no kernel image"
            raise unreadable(path, f"is {what}", HINT)
        if not data or len(data) < size:
            raise unreadable(path, f"is {wrapping}, but its payload is not all there", HINT)
    raise unreadable(path, "is packed again and again", HINT)


def _read_elf(data: memoryview, path: str) -> Image:
    if len(data) < elf.elf64_ehdr.sizeof():
        raise unreadable(path, "is an ELF file that is cut short", HINT)
    header = elf.elf64_ehdr.parse(bytes(data[: elf.elf64_ehdr.sizeof()]))
    ident = (header.e_ident.ei_class, header.e_ident.ei_data)
    if ident != (elf.ELFCLASS64, elf.ELFDATA2LSB) or header.e_type == elf.ET_CORE:
        raise unreadable(path, "is an ELF file, but no 64-bit little-endian vmlinux", HINT)
    machine = MACHINES.get(header.e_machine)
    page_shift = X86_PAGE_SHIFT if machine == "x86_64" else None
    step, count = elf.elf64_shdr.sizeof(), min(header.e_shnum, MAX_SECTIONS)
    table = bytes(data[header.e_shoff :][: count * step])
    whole = range(0, len(table) // step * step, step)
    headers = [elf.elf64_shdr.parse(table[at : at + step]) for at in whole]
    sections = {}
    if header.e_shstrndx < len(headers):
        names = headers[header.e_shstrndx]
        for one in headers:
            name = bytes(data[names.sh_offset + one.sh_name :][:MAX_NAME]).split(b"\0")[0]
            sections[name] = data[one.sh_offset :][: one.sh_size]
    return Image(data, machine, page_shift, sections)
