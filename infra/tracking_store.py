"""The SQLite store of MLflow: made under a lock and another name, renamed when complete, and checked before its use.

MLflow itself makes a new store table by table and trusts what it finds: two processes that start at once, or a full
disk, leave a store that can never be opened again.
"""

import contextlib
import functools
import importlib
import os
import re
import sqlite3
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from infra.errors import PreceptorError
from infra.folders import locked
from infra.journal import STORE_VARIABLE

NAME = "mlflow.db"
_CREATED_WITHIN_S = 120.0  # by another process, on a busy machine
_BUSY_S = 3.0
_DATABASE = re.compile(r"(?:postgresql|mysql|mssql)\b")
_OPTIONS = frozenset(("timeout", "check_same_thread", "isolation_level", "cached_statements", "detect_types"))


def enter() -> None:
    """Change to the folder of a SQLite store, and from then on use the file's name alone: MLflow would misread some
    characters of the folder's name in the URI, and make folders of them."""
    if (path := _sqlite_file(_named())) is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.chdir(path.parent)
        os.environ[STORE_VARIABLE] = _uri(Path(path.name))


def opened() -> str:
    """The tracking URI; a SQLite store is made if there is none. Raises PreceptorError when the store cannot be
    used."""
    uri = _named()
    if not uri.startswith("http"):
        importlib.import_module(
            "mlflow.store.tracking.sqlalchemy_store"
        )  # takes a second; done before others have to wait for the lock
    if (path := _sqlite_file(uri)) is None:
        return uri
    if _is_missing(path):
        with locked(path.with_name(f".{path.name}.lock"), _CREATED_WITHIN_S):
            if _is_missing(path):  # another may have made it meanwhile
                _create(path)
    _check(path)
    return _uri(path)


def _named() -> str:
    return os.environ.get(STORE_VARIABLE) or f"sqlite:///{NAME}"


def _uri(path: Path) -> str:
    return f"sqlite:///{quote(str(path))}"


def check(uri: str) -> None:
    """Raise PreceptorError when a SQLite store cannot be written now: MLflow itself would wait for 45 s, and write on
    into a file that somebody has deleted."""
    if (path := _sqlite_file(uri)) is not None:
        _check(path)


def files(uri: str, run_dir: Path) -> str | None:
    """Where an experiment keeps its files: beside a SQLite store; beside the run folders for another database, where
    MLflow would use the current folder; None for any other store, which decides itself."""
    if (path := _sqlite_file(uri)) is not None:
        return _files(path)
    return _files(run_dir) if _DATABASE.match(uri) else None


def _files(beside: Path) -> str:
    return (beside.absolute().parent / "mlruns").as_uri()


def _sqlite_file(uri: str) -> Path | None:
    """The file of a SQLite store; None for any other, and for one in memory.

    Raises PreceptorError for a URI whose store would lie elsewhere than it seems.
    """
    from sqlalchemy.engine import make_url

    if not uri.startswith("sqlite:"):
        return None
    url = make_url(uri)
    name = url.database or ""
    if name in ("", ":memory:") or url.query.get("mode") == "memory":
        return None
    if name.startswith("file:") and url.query.get("uri") == "true":
        return Path(unquote(urlsplit(uri.partition("sqlite:///")[2]).path))
    written = Path(uri.partition("sqlite:///")[2].partition("?")[0])
    if name.startswith("file:") or ("?" in uri and not set(url.query) & _OPTIONS):
        raise PreceptorError(
            f"{STORE_VARIABLE}={uri} names no file: write a path, and a `?` in it as %3F: sqlite:////FOLDER/{NAME}"
        )
    if str(written) != name and written.parent.exists() and not Path(name).parent.exists():
        raise PreceptorError(f"{STORE_VARIABLE}={uri} names {name}: write a `%` as %25: {_uri(written)}")
    return Path(name)


def _is_missing(path: Path) -> bool:
    """Whether there is no store: SQLite makes an empty file first, and may have been killed then."""
    return not path.exists() or (path.is_file() and path.stat().st_size == 0)


def _create(path: Path) -> None:
    """Make a store with all tables and the default experiment beside its place, and then rename it."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    partial = path.with_name(f".{path.name}.partial")
    for leftover in (partial, Path(f"{partial}-journal")):  # of a process that was killed, or had no room
        leftover.unlink(missing_ok=True)
    store = SqlAlchemyStore(_uri(partial), _files(path))
    store.engine.dispose()
    partial.replace(path)  # only a whole store ever has this name


def _check(path: Path) -> None:
    # The version is checked too: MLflow would change the tables of an older store in place, without a lock.
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
            f"mlflow db upgrade {_uri(path.absolute())}"
        )


@functools.cache
def _schema_revision() -> str:
    """The version of the tables that this MLflow needs; finding it reads all migrations."""
    from mlflow.store.db.utils import _get_latest_schema_revision

    return str(_get_latest_schema_revision())
