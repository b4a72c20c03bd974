"""Whether sealed artifacts rest on one another: each says by digest what it was made from, and all have to agree."""

import functools
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from infra import folders, manifest
from infra.errors import ArtifactError
from infra.manifest import Artifact, Manifest


def check(inputs: Mapping[str, Artifact], run_dir: Path, *, among_themselves: bool = False) -> None:
    """Raise ArtifactError when an input, or what it was made from, was made from another artifact than the one of that
    name in the run folder: numbers of two lineages would stand side by side.

    The first stage that has to run again is named. among_themselves: what is no input need not be the artifact that is
    there now, as for a service, which shows what is finished while something else is made.
    """

    @functools.cache
    def known(name: str) -> Manifest | None:
        if name in inputs:
            return inputs[name].manifest
        return None if among_themselves else _stated(run_dir / name)

    asked_of: dict[str, tuple[str, str]] = {}  # name -> its digest, and who was made from it
    visited: set[str] = set()

    def visit(name: str) -> None:
        own = known(name)
        if own is None or name in visited:
            return
        visited.add(name)
        for read, digest in _read_by(own).items():
            visit(read)  # what is out of date nearer to the sources is made again first
            there = known(read)
            if there is not None and there.digest != digest:
                raise _disagreement(
                    f"{run_dir / name} was made from another {read} than the one that is there now", own, run_dir
                )
            other, by = asked_of.setdefault(read, (digest, name))
            if other != digest:
                raise _disagreement(f"{run_dir / name} and {by} were made from two different {read}", own, run_dir)

    for name in inputs:
        visit(name)


def _disagreement(what: str, of: Manifest, run_dir: Path) -> ArtifactError:
    return ArtifactError(
        f"{what}. Run the stage {of.stage} again, or the whole flow, which runs all that is out of date: "
        f"python -m pipelines.flow RECIPE --run-dir {shlex.quote(str(run_dir))}"
    )


def _stated(place: Path) -> Manifest | None:
    """What the manifest at a place says; None where there is none that can be read. No other file is looked at: the
    stage does not read this artifact."""
    try:
        with folders.open_file(place / manifest.MANIFEST) as stream:
            return manifest.read(stream)
    except (OSError, ValueError):
        return None


def _read_by(stated: Manifest) -> dict[str, Any]:
    inputs = stated.made_from.get("inputs")
    return inputs if isinstance(inputs, dict) else {}
