"""What a page shows: pictures in sections."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Card:
    """A picture, and a ``label`` below it; a ``kind`` of "query" is outlined."""

    path: str
    label: str
    kind: str = "match"


@dataclass(frozen=True)
class Section:
    """Pictures side by side, under a ``heading`` unless that is empty."""

    cards: tuple[Card, ...]
    heading: str = ""
