"""The tables of a collection's catalog."""

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Named,
    Table,
    Text,
    TypedColumns,
    UniqueConstraint,
    and_,
    false,
    func,
    text,
)

from imgsim.catalog.functions import IsOf

METADATA = MetaData()

_Number = Integer().with_variant(BigInteger(), "postgresql")  # SQLite's have 64 bits by themselves


class _EncoderColumns(TypedColumns):
    id = Column(Integer, primary_key=True)
    fingerprint: Named[str] = Column(unique=True)
    dim: Named[int]
    active: Named[bool]
    created_at: Named[int] = Column(BigInteger)
    name: Named[str] = Column(unique=True, index=True, server_default="")
    previous: Named[bool] = Column(server_default=false())


class _SegmentColumns(TypedColumns):
    id = Column(Integer, primary_key=True)
    name: Named[str] = Column(unique=True)
    encoder_id: Named[int] = Column(ForeignKey("encoders.id", deferrable=True))
    rows: Named[int]
    dim: Named[int]
    sha256: Named[str]
    created_at: Named[int] = Column(BigInteger)
    removed: Named[bytes | None] = Column(LargeBinary)


class _ImageColumns(TypedColumns):
    id = Column(_Number, primary_key=True)
    path: Named[bytes] = Column(LargeBinary, unique=True)
    size: Named[int] = Column(BigInteger)
    mtime_ns: Named[int] = Column(BigInteger)
    sha256: Named[bytes] = Column(index=True)
    width: Named[int]
    height: Named[int]
    segment_id: Named[int] = Column(ForeignKey("segments.id", deferrable=True))
    row: Named[int] = Column(_Number)
    damaged: Named[bool] = Column(server_default=false())
    checksum: Named[int] = Column(BigInteger, server_default=text("0"))


class _StagedColumns(TypedColumns):
    image_id: Named[int] = Column(
        _Number, ForeignKey("images.id", ondelete="CASCADE", deferrable=True), primary_key=True
    )
    segment_id: Named[int] = Column(ForeignKey("segments.id", deferrable=True), primary_key=True)
    row: Named[int] = Column(_Number)


class _SealColumns(TypedColumns):
    id = Column(Integer, primary_key=True)
    checksum: Named[int] = Column(BigInteger)


class _RootColumns(TypedColumns):
    path: Named[bytes] = Column(LargeBinary, primary_key=True)


class _RefusedColumns(TypedColumns):
    path: Named[bytes] = Column(LargeBinary, primary_key=True)
    size: Named[int] = Column(BigInteger)
    mtime_ns: Named[int] = Column(BigInteger)
    reason: Named[str]


class _RadiusColumns(TypedColumns):
    fingerprint: Named[str] = Column(primary_key=True)
    radius: Named[float] = Column(Float)
    false_alarms: Named[float] = Column(Float)
    recall: Named[float] = Column(Float)
    sampled: Named[int]
    images: Named[int]
    learnt_at: Named[int] = Column(BigInteger)
    checksum: Named[int] = Column(BigInteger)


class _JudgedColumns(TypedColumns):
    first: Named[bytes] = Column(LargeBinary, primary_key=True)
    second: Named[bytes] = Column(LargeBinary, primary_key=True)


ENCODERS = Table(
    "encoders",
    METADATA,
    _EncoderColumns,
    Index(
        "one_active_encoder",
        "active",
        unique=True,
        sqlite_where=text("active"),
        postgresql_where=text("active"),
    ),
)
"""Encoders in ``encoders/<fingerprint>``; the active one made the embeddings that are searched.

A previous one was active before; its embeddings go with the next ``compact``.
"""

SEGMENTS = Table("segments", METADATA, _SegmentColumns)
"""Files ``segments/<name>.faiss``.

``removed`` has a bit for each row that no image uses, the least bit first; NULL if all are used.
"""

IMAGES = Table(
    "images",
    METADATA,
    _ImageColumns,
    UniqueConstraint("segment_id", "row"),
    sqlite_autoincrement=True,
)
"""Stored images; the embedding of each is row ``row`` of its segment. Ids are never reused.

``checksum`` is of all columns but ``segment_id`` and ``row``; ``damaged`` ones lack some pixels.
"""

STAGED = Table("staged", METADATA, _StagedColumns, UniqueConstraint("segment_id", "row"))
"""Embeddings of stored images by encoders that are not active."""

SEALS = Table("seals", METADATA, _SealColumns)
"""One row: the checksum of all encoders and segments, and of the greatest id of an image."""

ROOTS = Table("roots", METADATA, _RootColumns)
"""Folders that were ingested; where one is missing or empty, its images are not taken for gone."""

REFUSED = Table("refused", METADATA, _RefusedColumns)
"""Files whose content was refused; they are not tried again until they change."""

RADII = Table("radii", METADATA, _RadiusColumns)
"""At which distance images are duplicates by an encoder, as learnt; see :class:`LearntRadius`.

It goes by the encoder's fingerprint, so it stays where encoders get other ids. ``checksum`` is of
all other columns.
"""

JUDGED = Table("judged", METADATA, _JudgedColumns)
"""Pairs of contents, by sha256, the lesser first, that somebody said are no duplicates."""

SEQUENCES = Table(
    "sqlite_sequence", MetaData(), Column("name", Text, primary_key=True), Column("seq", BigInteger)
)
"""The greatest id that was given to a row of a table, ever.

SQLite keeps it for ``images``. In PostgreSQL it is a table like the others.
"""

IN_SEGMENT = and_(IsOf(IMAGES.c.row, "integer"), IMAGES.c.row >= 0, IMAGES.c.row < SEGMENTS.c.rows)
"""The condition that an image is in a row of the segment that it is joined with."""

FIT_ROOT = and_(IsOf(ROOTS.c.path, "blob"), func.substr(ROOTS.c.path, 1, 1) == b"/")
"""The condition that the row of a folder has an absolute path."""

FIT_REFUSED = and_(
    IsOf(REFUSED.c.path, "blob"),
    IsOf(REFUSED.c.size, "integer"),
    IsOf(REFUSED.c.mtime_ns, "integer"),
    IsOf(REFUSED.c.reason, "text"),
)
"""The condition that the row of a refused file has values of the right types."""

FIT_JUDGED = and_(
    IsOf(JUDGED.c.first, "blob"),
    IsOf(JUDGED.c.second, "blob"),
    func.length(JUDGED.c.first) == 32,
    func.length(JUDGED.c.second) == 32,
    JUDGED.c.first < JUDGED.c.second,
)
"""The condition that the row of a pair has two contents, in order."""
