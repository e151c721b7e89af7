"""Bring the schema of a catalog up to date."""

import logging
import os
import time
from pathlib import Path

from sqlalchemy import Connection, func, inspect, select, text

from imgsim.catalog.database import Database
from imgsim.errors import CollectionForbidden, CollectionNewer

SCHEMA = "0007"
"""The revision that this code reads and writes: the newest in migrations/versions."""

_LOG = logging.getLogger(__name__)


def upgrade(database: Database, folder: Path) -> bool:
    """Bring the schema up to date, and say whether an older collection in a folder was changed.

    Raises :class:`CollectionNewer` if it is ahead, and :class:`CollectionForbidden` if it cannot be
    changed.
    """
    with database.engine.begin() as connection:
        found = _schema(connection)
    if found > SCHEMA:
        raise CollectionNewer(
            folder, f"its schema is {found} and this imgsim knows {SCHEMA}; upgrade imgsim"
        )
    if found < SCHEMA:
        if not os.access(folder, os.W_OK):
            raise CollectionForbidden(
                folder,
                f"its schema is {found}, this imgsim needs {SCHEMA}, and the folder cannot be "
                "written to; open it once where it can",
            )
        with database.alone() as connection:
            if _schema(connection) < SCHEMA:  # nobody else did it while we waited
                began = time.perf_counter()
                migrate(connection, _migrations())
                took = time.perf_counter() - began
                _LOG.debug("the schema went from %s to %s in %.2f s", found, SCHEMA, took)
    return "0000" < found < SCHEMA


def _schema(connection: Connection) -> str:
    is_postgres = connection.dialect.name == "postgresql"  # which looks further than that
    schema = connection.execute(select(func.current_schema())).scalar() if is_postgres else None
    if not inspect(connection).has_table("alembic_version", schema=schema):
        return "0000"
    version = connection.execute(text("SELECT version_num FROM alembic_version"))
    return version.scalar_one_or_none() or "0000"


def migrate(connection: Connection, scripts: Path, target: str = "head") -> None:
    """Run the Alembic revisions in ``scripts`` up to ``target``, in the open transaction."""
    from alembic import command  # noqa: PLC0415 - a second of import, for a step that is rare
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", os.fspath(scripts).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, target)


def _migrations() -> Path:
    """Return where the migrations are: inside the package, or beside it in a checkout."""
    package = Path(__file__).parents[1]
    inside = package / "migrations"
    return inside if inside.is_dir() else package.parent / "migrations"
