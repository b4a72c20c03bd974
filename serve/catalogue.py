"""Sealed artifacts -> the models that are served: their names, what decides their answers, where their weights are.

An adapter's name contains the start of its digest, so that the same name never means other weights: engines cache by
name.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path, PurePath

from infra.digests import digest_json
from infra.errors import ArtifactError, InputError
from infra.manifest import MANIFEST, Artifact
from pipelines.inference.backends.engine_config import EngineConfig
from pipelines.records import Arm, adapter_of
from pipelines.records.endpoint import ServedModel

DIGEST_DIGITS = 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class HostedModel:
    """A model that an engine of ours loads. source: the folder of its weights, or their id on a hub."""

    served: ServedModel
    source: str

    @property
    def name(self) -> str:
        """The name by which a request asks for it."""
        return self.served.name

    @property
    def revision(self) -> str | None:
        """The revision of a hub's weights that is loaded."""
        return self.served.revision


@dataclasses.dataclass(frozen=True, kw_only=True)
class Catalogue:
    """The models of one endpoint: the untouched base, the adapters on it, and the teacher.

    teacher: None where no engine of ours serves it. external_teacher: the one that another endpoint has.
    """

    base: HostedModel
    adapters: tuple[HostedModel, ...]
    teacher: HostedModel | None = None
    external_teacher: ServedModel | None = None

    @property
    def models(self) -> tuple[ServedModel, ...]:
        """Everything that our endpoint answers as: base, adapters, teacher."""
        teacher = () if self.teacher is None else (self.teacher,)
        return tuple(model.served for model in (self.base, *self.adapters, *teacher))


def read_catalogue(
    inputs: Mapping[str, Artifact],
    arms: tuple[Arm, ...],
    seeds: int = 1,
    *,
    student: EngineConfig,
    teacher: EngineConfig | None,
) -> Catalogue:
    """What these rationales and adapters serve.

    seeds: how many adapters each arm has. student, teacher: the engines that serve them; no teacher where no engine of
    ours is to serve it. Raises InputError when the adapters rest on different bases, and ArtifactError when a manifest
    does not name the model.
    """
    if not arms:
        raise InputError("arms is empty: name at least one adapter, for example --set 'deploy.arms=[\"answer_only\"]'")
    adapters = {adapter_of(arm, seed): (arm, seed) for seed in range(seeds) for arm in arms}
    _check_one_base({name: inputs[name] for name in adapters})
    base = _model(inputs[next(iter(adapters))], "base", Arm.ZERO_SHOT, student)
    served = tuple(_adapter(base.served, arm, seed, inputs[name]) for name, (arm, seed) in adapters.items())
    external_teacher = _external_teacher(inputs["rationales"])
    if external_teacher is not None or teacher is None:
        return Catalogue(base=base, adapters=served, external_teacher=external_teacher)
    hosted_teacher = _model(inputs["rationales"], "teacher", Arm.TEACHER, teacher)
    if base.name == hosted_teacher.name:
        raise InputError(f"Base and teacher would both be called {base.name!r}: give one model's folder another name.")
    return Catalogue(base=base, adapters=served, teacher=hosted_teacher)


def _external_teacher(rationales: Artifact) -> ServedModel | None:
    """The teacher where another endpoint has it, as its rationales say. With which settings is not known."""
    config = rationales.made_from.get("config", {})
    if not config.get("endpoint"):
        return None
    name = config["teacher"]
    return ServedModel(
        name=name,
        arm=Arm.TEACHER,
        digest=digest_json({"id": name}),
        base_url=config["endpoint"],
        revision=config.get("revision"),
    )


def model_name(path: str) -> str:
    """The name of a model folder or hub id: its last two parts, so `train/pocket/base` is `pocket-base`."""
    return "-".join(part.replace(":", "-") for part in PurePath(path).parts[-2:] if part != "/")


def adapter_name(base: str, arm: str, seed: int, digest: str) -> str:
    """The name of an adapter of this content, for example `pocket-base:answer_only-1a2b3c4d5e`, and with another seed
    than the first `pocket-base:answer_only-seed1-1a2b3c4d5e`."""
    return f"{base}:{PurePath(adapter_of(arm, seed)).name}-{digest[:DIGEST_DIGITS]}"


def _check_one_base(adapters: Mapping[str, Artifact]) -> None:
    """Raise InputError when the adapters were fitted on different bases."""
    bases = {PurePath(name).name: _made_from(artifact, "base") for name, artifact in adapters.items()}
    if len({digest for _, digest in bases.values()}) > 1:
        listed = ", ".join(f"{name} on {path} ({digest[:8]})" for name, (path, digest) in bases.items())
        raise InputError(f"The adapters rest on different base models: {listed}. Fit them again on one base.")


def _model(artifact: Artifact, role: str, arm: Arm, engine: EngineConfig) -> HostedModel:
    path, digest = _made_from(artifact, role)
    # An engine's process has another working directory; what is no folder here is a hub's id and stays as it is.
    is_folder = Path(path).exists()
    served = ServedModel(
        name=model_name(path),
        arm=arm,
        digest=digest,
        revision=None if is_folder else artifact.made_from.get("config", {}).get("revision"),
        engine=engine.answer_settings(),
    )
    return HostedModel(served=served, source=str(Path(path).absolute()) if is_folder else path)


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


def _adapter(base: ServedModel, arm: Arm, seed: int, artifact: Artifact) -> HostedModel:
    """An adapter, which the engine of its base serves."""
    served = dataclasses.replace(
        base,
        name=adapter_name(base.name, arm, seed, artifact.digest),
        arm=arm,
        seed=seed,
        digest=artifact.digest,
        base_digest=base.digest,
    )
    return HostedModel(served=served, source=str(artifact.path.absolute()))
