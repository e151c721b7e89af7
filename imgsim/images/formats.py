"""Which formats are read, and by what a file is known to be of one."""

import os
from dataclasses import dataclass
from functools import cache

from PIL import Image

COMMON = ("JPEG", "PNG")
_NOT_READ = {"EPS", "BUFR", "GRIB", "HDF5", "MPEG", "WMF"}  # Pillow only identifies most of them


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
    return tuple(sorted(set(Image.ID) & set(Image.OPEN) - _NOT_READ))


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
    b"#?RGBE": Format("Radiance HDR"),
    b"II\xbc": Format("JPEG XR"),
    b"\xff\xd8\xff\xf7": Format("JPEG-LS"),
    b"\xd7\xcd\xc6\x9a": Format("WMF"),
}
_ANY_KIND = b"heif", b"mif1", b"msf1"
_BRANDS: dict[bytes, Format | None] = {
    **dict.fromkeys((b"avif", b"avis"), None),  # Pillow reads it
    **dict.fromkeys((b"avci", b"avcs"), Format("HEIF with H.264 inside")),
    **dict.fromkeys((b"j2ki", b"j2is"), Format("HEIF with JPEG 2000 inside")),
    b"crx ": Format("CR3", "raw"),
    b"jxl ": Format("JPEG XL", "jxl"),
    **dict.fromkeys(
        (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"),
        Format("HEIF", "heif"),
    ),
    **dict.fromkeys(_ANY_KIND, Format("HEIF", "heif")),
}
_UTF_16 = b"\xff\xfe", b"\xfe\xff"
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
        return _by_brand(head)
    if head[40:44] == b" EMF":
        return Format("EMF")
    suffix = os.path.splitext(path)[1][1:].lower()
    if head.startswith(TIFF):
        camera = "cr2" if head[8:11] == b"CR\x02" else suffix
        return Format(camera.upper(), "raw") if camera in _CAMERAS else Format("", "tiff")
    if head.startswith(b"\x1f\x8b") and suffix == "svgz":
        return Format("SVGZ")
    if head.startswith(_UTF_16):
        head = head[: len(head) & ~1].decode("utf-16", "ignore").encode()
    is_markup = head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(_MARKUP)
    is_drawing = suffix == "svg" or (b"<svg" in head and b"<html" not in head)
    return Format("SVG", "svg") if is_markup and is_drawing else None


def _by_brand(head: bytes) -> Format | None:
    """Return the format that the first box of a file names, or else is compatible with.

    What tells most comes first: a HEIF of any kind is compatible with mif1.
    """
    main, others = head[8:12], head[16 : int.from_bytes(head[:4])]
    brands = {others[at : at + 4] for at in range(0, len(others), 4)}
    known = main if main in _BRANDS and main not in _ANY_KIND else None
    found = known or next((each for each in _BRANDS if each in {main, *brands}), None)
    return _BRANDS[found] if found else None
