"""Which formats are read, and by what suffixes files claim to be of one."""

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
