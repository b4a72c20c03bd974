"""The files and model folders from outside a run that a stage reads: whether they are there, and their digests."""

import functools
import re
from pathlib import Path

from infra import storage
from infra.digests import digest_json, digest_material
from infra.errors import InputError
from infra.stage import StageConfig

_HUB_ID = re.compile(r"\w[\w.-]*/[\w.-]+")


def check(config: StageConfig) -> None:
    """Raise InputError when a material of the stage is not there."""
    for name in config.materials():
        _is_there(config, name)


def digest(config: StageConfig, name: str) -> str:
    """Digest of a material: of its content, or of name and revision where it is a model id of a hub, since nothing here
    can read that model. Raises InputError when it is not there or cannot be read."""
    path = config.materials()[name]
    if not _is_there(config, name):
        by_id, revision = digest_json({"id": path}), config.revisions().get(name)
        return digest_json([by_id, revision]) if revision else by_id
    try:
        return content_digest(path, listed=name in config.listed_materials)
    except OSError as error:
        raise InputError(f"{config.stage}.{name}: {error}") from error


def _is_there(config: StageConfig, name: str) -> bool:
    """Whether a material can be read here; False for a model id of a hub. Raises InputError for anything else."""
    path = config.materials()[name]
    if storage.exists(path):
        return True
    if name in config.hub_materials and _HUB_ID.fullmatch(path):
        return False
    field = f"{config.stage}.{name}"
    raise InputError(f"{field}: there is nothing at {path!r}. Name what is there: --set {field}=PATH")


@functools.cache
def content_digest(path: str, *, listed: bool) -> str:
    """Digest of a file or folder, taken once in the life of this process: weights are large, and each output of a stage
    asks. listed: of the names, sizes and versions below it instead of the content."""
    return storage.digest_listing(path) if listed else digest_material(Path(path))
