"""The SQLite store of MLflow: made whole under a lock and another name, and looked at before it is used.

MLflow makes a new store table by table and trusts what it finds: two processes that start at once, or a full disk,
leave a store that none can open ever after.
"""

import contextlib
import functools
import importlib
import os
import sqlite3
from pathlib import Path

from infra.errors import PreceptorError
from infra.folders import locked
from infra.journal import STORE_VARIABLE

NAME = "mlflow.db"
_CREATED_WITHIN_S = 120.0  # by another process, on a busy machine
_BUSY_S = 3.0


def opened() -> str:
    """The tracking URI, after a SQLite store was made where there was none. Raises PreceptorError when it is of no
    use."""
    uri = os.environ.get(STORE_VARIABLE) or f"sqlite:///{NAME}"
    if not uri.startswith("http"):
        importlib.import_module("mlflow.store.tracking.sqlalchemy_store")  # a second, before anybody waits for a store
    path = _sqlite_file(uri)
    if path is not None and _is_missing(path):
        with locked(path.with_name(f".{path.name}.lock"), _CREATED_WITHIN_S):
            if _is_missing(path):  # another may have made it meanwhile
                _create(path)
    check(uri)
    return uri


def check(uri: str) -> None:
    """Raise PreceptorError when a SQLite store cannot be written now: MLflow itself would wait for 45 s, and write on
    into a file that somebody has deleted."""
    if (path := _sqlite_file(uri)) is not None:
        _check(path)


def files(uri: str) -> str | None:
    """Where an experiment keeps its files: beside a SQLite store, and for any other where the server says."""
    path = _sqlite_file(uri)
    return None if path is None else _files(path)


def _files(path: Path) -> str:
    return (path.parent.absolute() / "mlruns").as_uri()  # MLflow's own choice is the folder that it is started in


def _sqlite_file(uri: str) -> Path | None:
    """The file of a SQLite store; None for any other, and for forms of the URL that name no plain file."""
    from sqlalchemy.engine import make_url

    if not uri.startswith("sqlite:"):
        return None
    name = make_url(uri).database or ""
    return None if name in ("", ":memory:") or name.startswith("file:") else Path(name)


def _is_missing(path: Path) -> bool:
    """Whether nothing is there: SQLite makes an empty file before it writes the first byte, and may not get further."""
    return not path.exists() or (path.is_file() and path.stat().st_size == 0)


def _create(path: Path) -> None:
    """Make a store with all tables and the default experiment beside its place, and then put it there."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    partial = path.with_name(f".{path.name}.partial")
    for leftover in (partial, Path(f"{partial}-journal")):  # of a process that was killed, or had no room
        leftover.unlink(missing_ok=True)
    store = SqlAlchemyStore(f"sqlite:///{partial}", _files(path))
    store.engine.dispose()
    partial.replace(path)  # only a whole store ever has this name


def _check(path: Path) -> None:
    # The version too: MLflow changes the tables of an older store in place, without a lock.
    uri = f"{path.absolute().as_uri()}?mode=rw"
    try:
        with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=_BUSY_S, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            found = connection.execute("SELECT version_num FROM alembic_version").fetchall()
            connection.execute("ROLLBACK")
    except sqlite3.Error as error:
        raise PreceptorError(f"{path.absolute()}: {error}") from error
    if found != [(wanted := _schema_revision(),)]:
        raise PreceptorError(
            f"{path.absolute()} has the tables of another MLflow ({found}, not {wanted}); make a copy of it, then: "
            f"mlflow db upgrade sqlite:///{path.absolute()}"
        )


@functools.cache
def _schema_revision() -> str:
    """The version of the tables that this MLflow wants; it reads all of its migrations to tell."""
    from mlflow.store.db.utils import _get_latest_schema_revision

    return str(_get_latest_schema_revision())
