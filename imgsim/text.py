"""Names and messages that are safe to show."""

from pathlib import Path


def printable(text: str) -> str:
    """Return text that is safe to show: control characters and lone surrogates escaped."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )


def short_name(path: str) -> str:
    """Return the name of the file at ``path``, shortened to fit under a thumbnail."""
    name = printable(Path(path).name)
    return name if len(name) <= 24 else f"{name[:11]}…{name[-12:]}"
