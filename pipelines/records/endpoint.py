"""The artifact `endpoint`: where a run's models are served, and under which names."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from infra.errors import ArtifactError
from infra.manifest import write_json
from pipelines.records import Arm

ENDPOINT_FILE = "endpoint.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServedModel:
    """A model as a request names it, with what decides its answers.

    arm: what it was taught. seed: number of the seed with which its adapter was fitted, from 0. digest: of its adapter,
    or of its model folder. base_digest: of the model that an adapter rests on. revision: of its weights, or of its
    base's, on their hub. engine: settings of its engine that change an answer. base_url: of the endpoint that has it,
    where that is another one.
    """

    name: str
    arm: Arm
    digest: str
    seed: int = 0
    base_digest: str | None = None
    revision: str | None = None
    engine: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)
    base_url: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Endpoint:
    """An OpenAI-compatible endpoint and the models that answer behind it. base_url ends in /v1."""

    base_url: str
    models: tuple[ServedModel, ...]

    def write(self, folder: Path) -> None:
        """Write endpoint.json into a folder."""
        write_json(folder / ENDPOINT_FILE, dataclasses.asdict(self))

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The endpoint that a folder's endpoint.json names; raises ArtifactError when it cannot be read."""
        path = folder / ENDPOINT_FILE
        try:
            stored = json.loads(path.read_text())
            models = tuple(ServedModel(**{**model, "arm": Arm(model["arm"])}) for model in stored["models"])
            return cls(base_url=stored["base_url"], models=models)
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise ArtifactError(
                f"{path} names no endpoint ({error!r}). Deploy first: python -m serve.app RECIPE"
            ) from error
