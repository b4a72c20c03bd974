"""Whether sealed artifacts belong together: each names by digest what it was made from, and all have to agree."""

import functools
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from infra import folders, manifest
from infra.errors import ArtifactError
from infra.manifest import Artifact, Manifest


def check(inputs: Mapping[str, Artifact], run_dir: Path, *, inputs_only: bool = False) -> None:
    """Raise ArtifactError when an input, or an artifact behind it, was made from another version of an artifact than
    the run folder holds now: a report would compare numbers of two lineages.

    The error names the stage that has to run again first. inputs_only: compare the inputs with each other alone, as for
    a service, which serves finished adapters while the run folder already holds newer examples.
    """

    @functools.cache
    def known(name: str) -> Manifest | None:
        if name in inputs:
            return inputs[name].manifest
        return None if inputs_only else _stated(run_dir / name)

    read_as: dict[str, tuple[str, str]] = {}  # name -> the digest that was read, and the artifact that was made from it
    visited: set[str] = set()

    def visit(name: str) -> None:
        own = known(name)
        if own is None or name in visited:
            return
        visited.add(name)
        for read, digest in _read_by(own).items():
            visit(read)  # first, since an artifact nearer to the sources has to be made again first
            there = known(read)
            if there is not None and there.digest != digest:
                raise _disagreement(
                    f"{run_dir / name} was made from another {read} than the one that is there now", own, run_dir
                )
            other, by = read_as.setdefault(read, (digest, name))
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
    """The manifest at a place, or None if there is none that can be read. The artifact's other files are not checked,
    since the stage does not read them."""
    try:
        with folders.open_file(place / manifest.MANIFEST) as stream:
            return manifest.read(stream)
    except (OSError, ValueError):
        return None


def _read_by(stated: Manifest) -> dict[str, Any]:
    inputs = stated.made_from.get("inputs")
    return inputs if isinstance(inputs, dict) else {}
