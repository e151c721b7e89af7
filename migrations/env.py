"""Alembic's environment.

imgsim passes its open connection, and the upgrade is part of the transaction on it. The ``alembic``
command is given a database file: ``alembic -x database=FILE check``.
"""

from alembic import context
from sqlalchemy import Connection, create_engine

from imgsim.catalog.schema import METADATA


def run(connection: Connection) -> None:
    context.configure(connection=connection, target_metadata=METADATA, transactional_ddl=True)
    with context.begin_transaction():
        context.run_migrations()


given = context.config.attributes.get("connection")
if given is not None:
    run(given)
else:
    database = context.get_x_argument(as_dictionary=True)["database"]
    with create_engine(f"sqlite:///{database}").begin() as opened:
        run(opened)
