"""Functions of SQL that SQLite and PostgreSQL name differently."""

from typing import Any, ClassVar

from sqlalchemy import Boolean
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import GenericFunction


class _Function(GenericFunction[Any]):
    """One whose ``forms`` say what it is in each database."""

    forms: ClassVar[dict[str, str]]
    inherit_cache = False


class IsOf(_Function):
    """Whether a value has a type of SQLite, by its name; PostgreSQL has no others."""

    type = Boolean()
    inherit_cache = True
    forms: ClassVar = {"sqlite": "(typeof({0}) = {1})", "postgresql": "({0} IS NOT NULL)"}


class Contains(_Function):
    """Whether bytes have others in them."""

    type = Boolean()
    inherit_cache = True
    forms: ClassVar = {
        "sqlite": "(instr({0}, {1}) > 0)",
        "postgresql": "(position({1} in {0}) > 0)",
    }


class EndsWith(_Function):
    """Whether the last bytes are those, whose letters of ASCII are small, or capitals of them."""

    type = Boolean()
    inherit_cache = True
    forms: ClassVar = {
        "sqlite": "(lower(CAST(substr({0}, -length({1})) AS TEXT)) = CAST({1} AS TEXT))",
        "postgresql": (
            "(lower(convert_from(substr({0}, greatest(length({0}) - length({1}) + 1, 1)), "
            "'LATIN1') COLLATE \"C\") = convert_from({1}, 'LATIN1'))"
        ),
    }


@compiles(_Function)
def _form(element: _Function, compiler: SQLCompiler, **options: object) -> str:
    arguments = (compiler.process(each, **options) for each in element.clauses)
    return element.forms[compiler.dialect.name].format(*arguments)
