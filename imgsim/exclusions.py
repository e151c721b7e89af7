"""Which folders and files a search for images leaves out: patterns as in a .gitignore file."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

DEFAULTS = (
    "@eaDir/",
    "__MACOSX/",
    "*.lrdata/",
    "**/resources/derivatives/",
    "\\#recycle/",
    "@Recycle/",
    "$RECYCLE.BIN/",
    "\\#snapshot/",
    "@Recently-Snapshot/",
)
"""Folders that are left out unless a pattern takes them in again, as ``!@eaDir`` does.

=========================  =====================================================================
thumbnails                 ``@eaDir`` of a Synology, ``*.lrdata`` of Lightroom,
                           ``resources/derivatives`` of a library of Apple Photos
parts of other files       ``__MACOSX``, which unpacked archives leave
what was deleted           ``#recycle`` (Synology), ``@Recycle`` (QNAP), ``$RECYCLE.BIN`` (Windows)
every file once more       ``#snapshot`` (Synology), ``@Recently-Snapshot`` (QNAP)
=========================  =====================================================================

Thumbnails in hidden folders, as ``.thumbnails`` and ``.@__thumb``, are left out as all that is
hidden. ``Thumbs.db`` is no image. All of these are folders: so files cost nothing.
"""


@dataclass(frozen=True, slots=True)
class _Rule:
    """A pattern, which is about names or else about paths.

    ``excludes`` is false for one that takes in again what others leave out. An expression of the
    library that is not ``open`` also matches what is below an entry, where it ends early.
    """

    pattern: str
    excludes: bool
    search: Callable[[str], "re.Match[str] | None"]
    by_name: bool
    is_for_folders: bool
    is_open: bool


class Exclusions:
    """The default patterns and then those of the user; the last one that matches decides."""

    def __init__(self, patterns: str | Iterable[str] = ()) -> None:
        """Prepare the patterns; raise ValueError for one that is none."""
        own = [_rule(pattern) for pattern in reversed(listed_patterns(patterns))]
        self._folders = own + [_rule(pattern) for pattern in reversed(DEFAULTS)]
        self._files = [rule for rule in own if not rule.is_for_folders]
        self.concern_files = bool(self._files)

    def of_folder(self, path: str) -> str | None:
        """Return the pattern that leaves out the folder at a path relative to its root, if any."""
        return _deciding(self._folders, f"{path}/", path.rpartition("/")[2] + "/")

    def of_file(self, path: str) -> str | None:
        """Return the pattern that leaves out the file at a path relative to its root, if any."""
        return _deciding(self._files, path, path.rpartition("/")[2])


def listed_patterns(patterns: str | Iterable[str]) -> tuple[str, ...]:
    """Return one pattern, or several, as a tuple."""
    return (patterns,) if isinstance(patterns, str) else tuple(patterns)


def checked_patterns(patterns: str | Iterable[str]) -> tuple[str, ...]:
    """Return one pattern, or several, as a tuple; raise ValueError for one that is none."""
    found = listed_patterns(patterns)
    for pattern in found:
        _rule(pattern)
    return found


def _deciding(rules: Iterable[_Rule], path: str, name: str) -> str | None:
    """Return the first pattern that is about an entry, if it leaves it out.

    Path and name of a folder end in a slash.
    """
    for rule in rules:
        found = rule.search(name if rule.by_name else path)
        if found and (rule.is_open or found.end() == len(path)):
            return rule.pattern if rule.excludes else None
    return None


def _rule(pattern: str) -> _Rule:
    from pathspec import GitIgnoreSpec  # noqa: PLC0415 - queries do not pay for it

    try:
        parsed = GitIgnoreSpec.from_lines([pattern], backend="simple").patterns
    except (ValueError, re.error) as error:
        raise ValueError(f"{pattern}: is no pattern as in a .gitignore file") from error
    include, regex = (parsed[0].include, parsed[0].regex) if parsed else (None, None)
    if include is None or regex is None:  # nothing, a comment, a lone slash or bracket
        hint = "; write \\# for a name that begins with #" if pattern.startswith("#") else ""
        raise ValueError(f"the pattern {pattern!r} matches nothing{hint}")
    text = pattern.rstrip().removeprefix("!")
    by_name = "/" not in text.removesuffix("/")
    return _Rule(
        pattern=pattern,
        excludes=include,
        search=regex.search,
        by_name=by_name,
        is_for_folders=text.endswith("/"),
        is_open=by_name or text.endswith(("**", "**/")),
    )
