"""Sealed artifacts -> which models are served, under which names.

An adapter's name carries the start of its digest, so that a name never comes to mean other weights: engines cache by
name.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path, PurePath

from infra.digests import digest_json
from infra.errors import ArtifactError, InputError
from infra.manifest import MANIFEST, Artifact
from pipelines.records import Arm
from pipelines.records.endpoint import ServedModel

DIGEST_DIGITS = 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weights:
    """A model as it is served, and the folder (or the hub id, and its revision) its weights are loaded from."""

    served: ServedModel
    source: str
    revision: str | None = None

    @property
    def name(self) -> str:
        """The name by which a request asks for it."""
        return self.served.name


@dataclasses.dataclass(frozen=True, kw_only=True)
class Catalogue:
    """The base student, the adapters that rest on it, and the teacher.

    teacher: None where no engine of ours serves it. elsewhere: the teacher that another endpoint has.
    """

    base: Weights
    adapters: tuple[Weights, ...]
    teacher: Weights | None = None
    elsewhere: ServedModel | None = None

    @property
    def models(self) -> tuple[ServedModel, ...]:
        """Everything that our endpoint answers as: base, adapters, teacher."""
        teacher = () if self.teacher is None else (self.teacher,)
        return tuple(weights.served for weights in (self.base, *self.adapters, *teacher))


def catalogue(inputs: Mapping[str, Artifact], arms: tuple[str, ...], *, with_teacher: bool = True) -> Catalogue:
    """What these rationales and adapters serve; raises InputError when the adapters do not rest on one base.

    with_teacher: whether an engine of ours is to serve it, unless it was asked at another endpoint.
    """
    if not arms:
        raise InputError("arms is empty: name at least one adapter, for example --set 'deploy.arms=[\"answer_only\"]'")
    adapters = {arm: inputs[f"adapters/{arm}"] for arm in arms}
    _check_one_base(adapters)
    base = _model(next(iter(adapters.values())), "base", Arm.ZERO_SHOT)
    served = tuple(_adapter(base.name, Arm(arm), artifact) for arm, artifact in adapters.items())
    elsewhere = _elsewhere(inputs["rationales"])
    if elsewhere is not None or not with_teacher:
        return Catalogue(base=base, adapters=served, elsewhere=elsewhere)
    teacher = _model(inputs["rationales"], "teacher", Arm.TEACHER)
    if base.name == teacher.name:
        raise InputError(f"Base and teacher would both be called {base.name!r}: give one model's folder another name.")
    return Catalogue(base=base, adapters=served, teacher=teacher)


def _elsewhere(rationales: Artifact) -> ServedModel | None:
    """The teacher where another endpoint has it, as its rationales say."""
    config = rationales.made_from.get("config", {})
    if not config.get("endpoint"):
        return None
    name = config["teacher"]
    return ServedModel(name=name, arm=Arm.TEACHER, digest=digest_json({"id": name}), base_url=config["endpoint"])


def model_name(path: str) -> str:
    """The name of a model folder or hub id: its last two parts, so `train/pocket/base` is `pocket-base`."""
    return "-".join(part.replace(":", "-") for part in PurePath(path).parts[-2:] if part != "/")


def adapter_name(base: str, arm: str, digest: str) -> str:
    """The name of an adapter of this content, for example `pocket-base:answer_only-1a2b3c4d5e`."""
    return f"{base}:{arm}-{digest[:DIGEST_DIGITS]}"


def _check_one_base(adapters: Mapping[str, Artifact]) -> None:
    bases = {arm: _made_from(artifact, "base") for arm, artifact in adapters.items()}
    if len({digest for _, digest in bases.values()}) > 1:
        listed = ", ".join(f"{arm} on {path} ({digest[:8]})" for arm, (path, digest) in bases.items())
        raise InputError(f"The adapters rest on different base models: {listed}. Fit them again on one base.")


def _model(artifact: Artifact, role: str, arm: Arm) -> Weights:
    path, digest = _made_from(artifact, role)
    served = ServedModel(name=model_name(path), arm=arm, digest=digest)
    # An engine's process has another working directory; what is no folder here is a hub's id and stays as it is.
    if Path(path).exists():
        return Weights(served=served, source=str(Path(path).absolute()))
    return Weights(served=served, source=path, revision=artifact.made_from.get("config", {}).get("revision"))


def _made_from(artifact: Artifact, role: str) -> tuple[str, str]:
    """Path and digest of the model that an artifact was made with; raises ArtifactError when its manifest has none."""
    try:
        path, digest = artifact.made_from["paths"][role], artifact.made_from["materials"][role]
    except (KeyError, TypeError):
        path = digest = None
    if not isinstance(path, str) or not isinstance(digest, str):
        raise ArtifactError(
            f"{artifact.path / MANIFEST} does not say which {role} was used. Delete {artifact.path} to have it made "
            "again."
        )
    return path, digest


def _adapter(base: str, arm: Arm, artifact: Artifact) -> Weights:
    served = ServedModel(name=adapter_name(base, arm, artifact.digest), arm=arm, digest=artifact.digest)
    return Weights(served=served, source=str(artifact.path.absolute()))
