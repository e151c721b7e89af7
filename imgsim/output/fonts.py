"""Fonts for names in any script: those that are installed and have the characters."""

from collections.abc import Iterable, Sequence

from matplotlib import font_manager
from matplotlib.ft2font import FaceFlags, FT2Font
from matplotlib.text import Text

_USUAL = font_manager.FontProperties().get_family()
_NOT_DRAWN = {"\n", "\u200c", "\u200d"}
_PLACEHOLDERS = "Last Resort"  # has a box for every character


def choose_fonts(texts: Sequence[Text]) -> str:
    """Let each text fall back to fonts that have its characters; return those that none has.

    Fonts are looked at only for characters that the usual one lacks, and the fewest are chosen.
    """
    usual = FT2Font(font_manager.findfont(font_manager.FontProperties()))
    wanted = {character for text in texts for character in text.get_text()} - _NOT_DRAWN
    lacking = _without(usual, wanted)
    if not lacking:
        return ""
    chosen, missing = _covering(lacking)
    for text in texts:
        own = [family for family, has in chosen if has & set(text.get_text())]
        text.set_fontfamily([*_USUAL, *own])
    return "".join(sorted(missing))


def _covering(lacking: set[str]) -> tuple[list[tuple[str, set[str]]], set[str]]:
    """Return a few families with the characters that each has, and the characters left over."""
    known = {entry.fname for entry in font_manager.fontManager.ttflist}
    found: list[tuple[str, str, set[str]]] = []
    for path in sorted(known | set(font_manager.findSystemFonts())):
        font = _opened(path)
        if font is not None and (has := lacking - _without(font, lacking)):
            found.append((path, font.family_name, has))
    chosen, missing = [], set(lacking)
    while any(has & missing for *_, has in found):
        path, family, has = max(found, key=lambda each: len(each[2] & missing))
        if path not in known:  # it was installed after matplotlib listed the fonts
            font_manager.fontManager.addfont(path)
        chosen.append((family, has))
        missing -= has
    return chosen, missing


def _opened(path: str) -> FT2Font | None:
    """Return a font that matplotlib can draw with; None for any other file."""
    try:
        font = FT2Font(path)
    except (OSError, RuntimeError):  # it is gone, or damaged
        return None
    is_outlined = FaceFlags.SCALABLE in font.face_flags and FaceFlags.COLOR not in font.face_flags
    return font if is_outlined and not font.family_name.startswith(_PLACEHOLDERS) else None


def _without(font: FT2Font, characters: Iterable[str]) -> set[str]:
    """Return the characters that a font does not have."""
    return {each for each in characters if not font.get_char_index(ord(each))}
