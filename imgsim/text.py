"""Names and messages that are safe to show."""

import unicodedata
from bisect import bisect_right
from itertools import accumulate
from pathlib import Path

_JOINERS = "\u200c\u200d"  # parts of words and of emojis


def printable(text: str) -> str:
    """Return text that is safe to show: control characters and lone surrogates escaped."""
    return text if text.isprintable() else "".join(map(_shown, text))


def _shown(character: str) -> str:
    is_shown = character.isprintable() or character in _JOINERS
    if is_shown or unicodedata.category(character) == "Zs":
        return character
    return character.encode("unicode_escape").decode()


def short_name(path: str) -> str:
    """Return the name of the file at ``path``, shortened to fit under a thumbnail.

    A Chinese, Japanese or Korean character is as wide as two others.
    """
    name = printable(Path(path).name)
    if _begin(name, 24) == name:
        return name
    return f"{_begin(name, 11)}…{_begin(name[::-1], 12)[::-1]}"


def _begin(text: str, width: int) -> str:
    """Return as much of the beginning as is no wider."""
    widths = (1 + (unicodedata.east_asian_width(each) in {"W", "F"}) for each in text)
    return text[: bisect_right(list(accumulate(widths)), width)]
