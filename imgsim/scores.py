"""How well embeddings retrieve and recognise, as trainings and evaluations give it back."""

from dataclasses import dataclass, field

from imgsim.results import Refusal


@dataclass(frozen=True)
class Recognition:
    """Which share of some ``images`` is recognised by the encoder, and by raw pixels.

    That is, an image is the nearest to itself cropped a little, lit otherwise, perhaps mirrored.
    ``isolation`` is how far images are from their tenth nearest, as a share of how far any two are;
    0 where it was not measured.
    """

    images: int
    encoder: float
    pixels: float
    isolation: float = 0.0

    @property
    def is_sparse(self) -> bool:
        """Say whether there are few images of each kind, so that pretrained networks find more.

        docs/decisions.md says what that was judged by.
        """
        return self.isolation > 0.7

    @property
    def is_poor(self) -> bool:
        """Say whether the encoder fails more than half as often as the pixels.

        Such encoders retrieved labelled images no better than pixels did; see docs/decisions.md.
        """
        return 2 * (1 - self.encoder) > 1 - self.pixels


@dataclass(frozen=True)
class MeanWithInterval:
    """A mean over queries, and the ends of its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Scores:
    """How well some embeddings retrieve; ``imgsim.evaluation.evaluate`` defines the measures.

    ``recall`` has recall@k by k.
    """

    recall: dict[int, MeanWithInterval]
    p10: MeanWithInterval
    map: MeanWithInterval


@dataclass(frozen=True)
class ClassScore:
    """What the 10 nearest of a label's queries are: shares by label, the greatest first."""

    label: str
    images: int
    queries: int
    retrieved: dict[str, float]


@dataclass(frozen=True)
class RetrievalExample:
    """A query image and its label, its nearest images and theirs."""

    query: str
    label: str
    nearest: tuple[str, ...]
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Evaluation:
    """How well embeddings retrieve labelled images, and 32x32 pixels and a histogram beside them.

    ``embeddings`` are those of the first encoder that was asked for, as are ``classes`` and
    ``retrieved``; ``encoders`` has the scores of each by its name.
    ``unlabelled`` images have no label and were left out; ``refused`` ones cannot be decoded.
    ``excluded`` is that of :class:`imgsim.results.IngestReport`.
    """

    images: int
    queries: int
    embeddings: Scores
    encoders: dict[str, Scores]
    pixels: Scores
    histogram: Scores
    classes: tuple[ClassScore, ...]
    retrieved: tuple[RetrievalExample, ...]
    unlabelled: int = 0
    refused: tuple[Refusal, ...] = ()
    excluded: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Agreement:
    """Which share of the 10 nearest stays the same when a picture is cropped, or saved again."""

    cropped: float
    resaved: float


@dataclass(frozen=True)
class AgreementReport:
    """How far encoders, by name, agree with themselves on some ``images``.

    It is no measure of kinds; ``imgsim.evaluation.agreement`` says why. ``refused`` files cannot be
    decoded.
    """

    images: int
    encoders: dict[str, Agreement]
    refused: tuple[Refusal, ...] = ()
