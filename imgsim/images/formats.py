"""Which formats are read, and by what suffixes files claim to be of one."""

import os
from functools import cache

from PIL import Image

COMMON = ("JPEG", "PNG")


@cache
def formats() -> tuple[str, ...]:
    """Return the names of all formats that are read; loading them takes a tenth of a second."""
    Image.init()
    return tuple(sorted(set(Image.ID) & set(Image.OPEN) - {"EPS"}))


@cache
def suffixes() -> frozenset[str]:
    """Return the suffixes of these formats, in small letters."""
    extensions = Image.registered_extensions()
    return frozenset(suffix for suffix, name in extensions.items() if name in formats())


_SIGNATURES = {
    b"FUJIFILMCCD-RAW": "RAF",
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"IIRO": "ORF",
    b"IIRS": "ORF",
    b"IIU\0": "RW2",
    b"gimp xcf": "XCF",
    b"FOVb": "X3F",
    b"v/1\x01": "OpenEXR",
    b"#?RADIANCE": "Radiance HDR",
}
_BRANDS = {b"crx ": "CR3", b"jxl ": "JPEG XL"}
_HEIF = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"heif"}
_TIFF = b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"
_CAMERAS = {
    "dng",
    "nef",
    "nrw",
    "arw",
    "srf",
    "sr2",
    "cr2",
    "pef",
    "srw",
    "erf",
    "kdc",
    "dcr",
    "3fr",
}


def unread_format(path: str, head: bytes) -> str | None:
    """Return what to call the format of an image that is not read, from its first 32 bytes.

    None if they are those of no image that is known.
    """
    for signature, name in _SIGNATURES.items():
        if head.startswith(signature):
            return name
    if head[4:8] == b"ftyp":
        brand = head[8:12]
        return "HEIF" if brand in _HEIF else _BRANDS.get(brand)
    suffix = os.path.splitext(path)[1][1:].lower()
    if head.startswith(_TIFF):
        return suffix.upper() if suffix in _CAMERAS else "a TIFF of this kind"
    is_markup = head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"<svg", b"<?xml", b"<!--"))
    return "SVG" if is_markup and suffix == "svg" else None
