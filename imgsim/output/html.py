"""Matches as one self-contained HTML page."""

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path

from imgsim.errors import ImageError
from imgsim.files import replacing, writing
from imgsim.images.decode import thumbnail
from imgsim.output.target import PAGES, check_target
from imgsim.results import QueryResult
from imgsim.text import printable, short_name

_THUMBNAIL = 224


def write_page(path: Path, results: Sequence[QueryResult]) -> None:
    """Write one self-contained HTML file with a section for each query."""
    check_target(path, PAGES)
    sections = "\n".join(_section(result) for result in results)
    with writing(path), replacing(path) as temporary:
        temporary.write_text(_PAGE.format(style=_STYLE, sections=sections), encoding="utf-8")


def _section(result: QueryResult) -> str:
    query = _card(result.query, "query", "query")
    matches = (
        _card(match.path, f"{match.rank} &middot; {match.distance:.6g}", "match")
        for match in result.matches
    )
    return f"<section>\n{query}{''.join(matches)}</section>"


def _card(path: str, label: str, kind: str) -> str:
    name = html.escape(printable(path))
    try:
        with io.BytesIO() as file:
            thumbnail(path, _THUMBNAIL).save(file, "JPEG", quality=85)
            data = base64.b64encode(file.getvalue()).decode("ascii")
        picture = f'<img src="data:image/jpeg;base64,{data}" alt="{name}">'
    except ImageError as error:
        picture = f"<p>{html.escape(printable(error.reason))}</p>"
    link = html.escape(Path(path).absolute().as_uri())
    return (
        f'<figure class="{kind}"><a href="{link}" title="{name}">{picture}</a>'
        f"<figcaption><b>{label}</b><br>{html.escape(short_name(path))}</figcaption></figure>\n"
    )


_STYLE = """
:root { color-scheme: light dark; font: 14px system-ui, sans-serif; }
body { margin: 1.5rem; }
section { display: flex; flex-wrap: wrap; gap: .75rem; padding: 1rem 0;
  border-bottom: 1px solid #8884; }
figure { margin: 0; width: 180px; }
figure a { display: flex; height: 180px; align-items: center; justify-content: center;
  background: #8882; border-radius: 6px; overflow: hidden; }
figure.query a { outline: 3px solid #2a7ae2; }
img { max-width: 100%; max-height: 100%; }
figcaption { padding-top: .3rem; overflow-wrap: anywhere; }
"""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>imgsim: similar images</title>
<style>{style}</style>
</head>
<body>
<h1>Similar images</h1>
{sections}
</body>
</html>
"""
