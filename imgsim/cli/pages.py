"""Pages of pictures, where a command is asked for one."""

from collections.abc import Iterable
from pathlib import Path

from imgsim.cli.console import progress_bar
from imgsim.cli.options import Options
from imgsim.options import STORED_RULES, DecodeRules
from imgsim.output.sections import Section
from imgsim.output.target import PAGES, check_target


def check_page(page: Path | None) -> None:
    """Refuse a page that cannot be written, before anything is computed."""
    if page is not None:
        check_target(page, PAGES)


def write_pages(
    page: Path | None,
    title: str,
    sections: Iterable[Section],
    options: Options,
    rules: DecodeRules = STORED_RULES,
) -> None:
    """Write a page if there is to be one, and say where it is."""
    if page is None:
        return
    from imgsim.output.html import write_sections  # noqa: PLC0415 - Pillow is not needed otherwise

    with progress_bar("page", quiet=options.quiet) as on_progress:
        write_sections(page, title, list(sections), on_progress, rules)
    options.note(f"page: {page}")
