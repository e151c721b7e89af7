"""Which formats are read, and by what a file is known to be of one."""

import os
from dataclasses import dataclass
from functools import cache

from PIL import Image

COMMON = ("JPEG", "PNG")


@dataclass(frozen=True)
class Format:
    """A format that Pillow does not read; ``extra`` is imgsim's extra that does, if there is one.

    ``name`` is what to call it.
    """

    name: str
    extra: str = ""


@cache
def formats() -> tuple[str, ...]:
    """Return the names of what Pillow reads; loading them takes a tenth of a second."""
    Image.init()
    return tuple(sorted(set(Image.ID) & set(Image.OPEN) - {"EPS"}))


@cache
def suffixes() -> frozenset[str]:
    """Return the suffixes of formats that are read, or would be with an extra, in small letters."""
    extensions = Image.registered_extensions()
    pillows = {suffix for suffix, name in extensions.items() if name in formats()}
    return frozenset(pillows | _SUFFIXES | {f".{name}" for name in _CAMERAS})


_SUFFIXES = {".heic", ".heif", ".hif", ".jxl", ".svg"}
_CAMERAS = frozenset(
    {
        *(
            "3fr",
            "arw",
            "cr2",
            "cr3",
            "crw",
            "dcr",
            "dng",
            "erf",
            "fff",
            "iiq",
            "kdc",
            "mef",
            "mos",
        ),
        *("mrw", "nef", "nrw", "orf", "pef", "raf", "rw2", "rwl", "sr2", "srf", "srw", "x3f"),
    }
)
_SIGNATURES = {
    b"FUJIFILMCCD-RAW": Format("RAF", "raw"),
    b"\xff\x0a": Format("JPEG XL", "jxl"),
    b"\0\0\0\x0cJXL ": Format("JPEG XL", "jxl"),
    b"IIRO": Format("ORF", "raw"),
    b"IIRS": Format("ORF", "raw"),
    b"MMOR": Format("ORF", "raw"),
    b"IIU\0": Format("RW2", "raw"),
    b"II\x1a\0\0\0HEAPCCDR": Format("CRW", "raw"),
    b"\0MRM": Format("MRW", "raw"),
    b"FOVb": Format("X3F", "raw"),
    b"gimp xcf": Format("XCF"),
    b"v/1\x01": Format("OpenEXR"),
    b"#?RADIANCE": Format("Radiance HDR"),
}
_BRANDS = dict.fromkeys(
    (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"),
    Format("HEIF", "heif"),
) | {b"crx ": Format("CR3", "raw"), b"jxl ": Format("JPEG XL", "jxl")}
_MARKUP = b"<svg", b"<?xml", b"<!--", b"<!DOCTYPE svg"

TIFF = b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"
"""How a TIFF begins, and so do many raw files of cameras."""


def other_format(path: str, head: bytes) -> Format | None:
    """Return the format of an image that Pillow does not read, from its first kilobyte.

    None if it is that of no image that is known. Of a TIFF that is nothing else, the name is empty.
    """
    for signature, known in _SIGNATURES.items():
        if head.startswith(signature):
            return known
    if head[4:8] == b"ftyp":
        return _BRANDS.get(head[8:12])
    suffix = os.path.splitext(path)[1][1:].lower()
    if head.startswith(TIFF) and head[8:11] == b"CR\x02":
        return Format("CR2", "raw")
    if head.startswith(TIFF):
        return Format(suffix.upper(), "raw") if suffix in _CAMERAS else Format("", "tiff")
    is_markup = head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(_MARKUP)
    is_drawing = suffix == "svg" or (b"<svg" in head and b"<html" not in head)
    return Format("SVG", "svg") if is_markup and is_drawing else None
