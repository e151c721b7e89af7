"""Pictures in sections, as one HTML page."""

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imgsim.errors import ImageError
from imgsim.files import absolute, replacing, writing
from imgsim.images.decode import dimensions, thumbnail
from imgsim.options import DECODE_RULES, DecodeRules
from imgsim.output.sections import Card, Section
from imgsim.output.selection import select
from imgsim.output.target import PAGES, check_target
from imgsim.results import Progress, QueryResult
from imgsim.text import printable, short_name

_MOST = 20_000  # pictures on a page
_EMBEDDED = 1_000  # thumbnails, some kilobytes each; the browser takes the others from the files
_THUMBNAIL = 192


def write_page(
    path: Path,
    results: Sequence[QueryResult],
    on_progress: Progress | None = None,
    rules: DecodeRules = DECODE_RULES,
    *,
    embedded: int = _EMBEDDED,
) -> int:
    """Write one HTML file with a section for each query.

    At most 20,000 pictures are shown; see :func:`select`. Returns how many are left out. For
    ``embedded`` see :func:`write_sections`.
    """
    selection = select(results, _MOST)
    sections = [
        Section(
            (
                Card(result.query, "query", "query"),
                *(Card(m.path, f"{m.rank} · {m.distance:.6g}", "match") for m in result.matches),
            )
        )
        for result in selection.results
    ]
    write_sections(path, "Similar images", sections, on_progress, rules, embedded=embedded)
    return selection.left_out


def write_sections(
    path: Path,
    title: str,
    sections: Sequence[Section],
    on_progress: Progress | None = None,
    rules: DecodeRules = DECODE_RULES,
    *,
    embedded: int = _EMBEDDED,
) -> None:
    """Write one HTML file with a row of pictures for each section.

    The first ``embedded`` different images are in it as thumbnails, once each; the browser loads
    the others from their files when they are looked at. What is text in ``sections`` is escaped.
    """
    check_target(path, PAGES)
    pictures = sum(len(section.cards) for section in sections)
    gallery = _Gallery(embedded, pictures, on_progress, rules)
    shown = "\n".join(map(gallery.section, sections))
    style = _STYLE + "\n".join(gallery.rules)
    page = _PAGE.format(title=html.escape(title), style=style, sections=shown)
    with writing(path), replacing(path.resolve()) as temporary:
        temporary.write_text(page, encoding="utf-8")


class _Gallery:
    """The pictures of a page: ``rules`` of its style sheet have the thumbnails."""

    def __init__(
        self, embedded: int, pictures: int, on_progress: Progress | None, rules: DecodeRules
    ) -> None:
        self.rules: list[str] = []
        self._embedded, self._pictures, self._rules = embedded, pictures, rules
        self._on_progress = on_progress
        self._done = 0
        self._known: dict[str, tuple[str, str]] = {}

    def section(self, section: Section) -> str:
        """Return a row of pictures and its heading."""
        heading = html.escape(printable(section.heading))
        cards = "".join(map(self._card, section.cards))
        return (f"<h2>{heading}</h2>\n" if heading else "") + f"<section>\n{cards}</section>"

    def _card(self, card: Card) -> str:
        path, label = card.path, html.escape(printable(card.label))
        if path not in self._known:
            self._known[path] = self._picture(path)
        picture, size = self._known[path]
        self._done += 1
        if self._on_progress is not None:
            self._on_progress(self._done, self._pictures)
        name, link = html.escape(printable(path)), html.escape(Path(absolute(path)).as_uri())
        return (
            f'<figure class="{card.kind}"><a href="{link}" title="{name}">{picture}</a><figcaption>'
            f"<b>{label}</b><br><bdi>{html.escape(short_name(path))}</bdi><br>{size}</figcaption>"
            "</figure>\n"
        )

    def _picture(self, path: str) -> tuple[str, str]:
        """Return what shows an image, and its width and height."""
        name = html.escape(printable(path))
        try:
            if len(self.rules) < self._embedded:
                pixels, number = thumbnail(path, _THUMBNAIL, self._rules), len(self.rules)
                width, height = pixels.size
                self.rules.append(f".p{number}{{background-image:url({_data(pixels.values)})}}")
                shown = f'<i class="p{number}" role="img" aria-label="{name}"></i>'
            else:
                width, height = dimensions(path)
                source = html.escape(Path(absolute(path)).as_uri())
                shown = f'<img loading="lazy" decoding="async" src="{source}" alt="{name}">'
        except ImageError as error:
            return f"<span>{html.escape(printable(error.reason))}</span>", ""
        return shown, f"{width} &times; {height}"


def _data(pixels: NDArray[np.uint8]) -> str:
    """Return pixels (height, width, 3) as the address of a JPEG file."""
    with io.BytesIO() as file:
        Image.fromarray(pixels).save(file, "JPEG", quality=80)
        return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"


_STYLE = """
:root { color-scheme: light dark; font: 14px system-ui, sans-serif; }
body { margin: 1.5rem; }
h2 { font-size: 1rem; margin: 1rem 0 0; }
section { display: flex; flex-wrap: wrap; gap: .75rem; padding: 1rem 0;
  border-bottom: 1px solid #8884; content-visibility: auto; contain-intrinsic-size: auto 260px; }
figure { margin: 0; width: 180px; }
figure a { display: flex; height: 180px; align-items: center; justify-content: center;
  background: #8882; border-radius: 6px; overflow: hidden; }
figure.query a { outline: 3px solid #2a7ae2; }
i { width: 100%; height: 100%; background: center / contain no-repeat; print-color-adjust: exact; }
img { max-width: 100%; max-height: 100%; }
figcaption { padding-top: .3rem; overflow-wrap: anywhere; }
"""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>imgsim: {title}</title>
<style>{style}</style>
</head>
<body>
<h1>{title}</h1>
{sections}
</body>
</html>
"""
