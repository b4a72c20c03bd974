"""A disk that takes no more -> one clear error."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from infra.errors import ArtifactError


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn a full or read-only disk below the folder into an ArtifactError.

    safetensors raises its own SafetensorError where others raise OSError.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise ArtifactError(
            f"{folder} could not be written: {error}. Free space or choose another --run-dir."
        ) from error
