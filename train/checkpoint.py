"""The state of a fit, written every few steps and sealed, so that a stopped fit can continue. [edge]

A checkpoint is a folder such as `step-000050` with two files: `state.safetensors`, the weights and Adam moments of each
adapter matrix by name, in float32, and `checkpoint.json`, written last, with the digest of the former. Nothing in it
depends on a rank, so any number of workers can continue from it. Random numbers need no state: they follow from the
seed and the step.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from deepspeed.utils import (
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
    safe_set_full_fp32_param,
    safe_set_full_optimizer_state,
)
from safetensors.torch import load_file, save_file

from infra.digests import digest_file
from infra.manifest import write_json
from train.disk import disk_errors
from train.job import NUM_CHECKPOINTS_KEPT

_STATE, _SEAL = "state.safetensors", "checkpoint.json"
_MOMENTS = ("exp_avg", "exp_avg_sq")
_EXTRA = "kept."  # prefix of the tensors that the training loop adds to the engine's own


def save(
    folder: Path, engine: Any, step: int, rank: int, about: dict[str, Any], extra: Mapping[str, torch.Tensor]
) -> None:
    """Write the state after a step, and delete all but the newest checkpoints. Every rank must call this.

    about, extra: what the training loop needs to continue, as JSON values and as tensors. Raises ArtifactError on a
    full disk.
    """
    tensors = _state(engine) | {f"{_EXTRA}{name}": each for name, each in extra.items()}
    if rank == 0:
        place = folder / f"step-{step:06}"
        draft = folder / f".step-{step:06}.draft"
        with disk_errors(folder):
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir(parents=True)
            save_file(tensors, draft / _STATE)
            write_json(draft / _SEAL, {"step": step, "sha256": digest_file(draft / _STATE), "about": about})
            shutil.rmtree(place, ignore_errors=True)
            draft.rename(place)
        for old in sealed(folder)[NUM_CHECKPOINTS_KEPT:]:
            shutil.rmtree(old, ignore_errors=True)
    torch.distributed.barrier()


def sealed(folder: Path) -> list[Path]:
    """The folders of finished checkpoints, the newest first. Their content is not verified."""
    return sorted((seal.parent for seal in folder.glob(f"step-*/{_SEAL}")), reverse=True)


def agreed(folder: Path, rank: int) -> Path | None:
    """The newest checkpoint that the first rank sees, broadcast to every rank: shared storage may show other ranks an
    older or newer state for a while."""
    found = [newest(folder) if rank == 0 else None]
    torch.distributed.broadcast_object_list(found, src=0)
    return found[0]


def newest(folder: Path) -> Path | None:
    """The newest checkpoint whose content has the sealed digest; a damaged one is skipped for an older one."""
    for place in sealed(folder):
        try:
            about = json.loads((place / _SEAL).read_text())
            if about["sha256"] == digest_file(place / _STATE):
                return place
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            continue
    return None


def restore(place: Path, engine: Any) -> tuple[int, dict[str, Any], dict[str, torch.Tensor]]:
    """Put the engine into the state of a checkpoint. Every rank must call this.

    Returns the step, and the `about` and `extra` that `save` was given.
    """
    seal = json.loads((place / _SEAL).read_text())
    tensors = load_file(place / _STATE)
    _create_moments(engine.optimizer, seal["step"])
    for name, parameter in _trainable(engine):
        weight = tensors[f"{name}.weight"].to(parameter.device)
        safe_set_full_fp32_param(parameter, weight)
        parameter.data.copy_(weight)
        for moment in _MOMENTS:
            safe_set_full_optimizer_state(parameter, tensors[f"{name}.{moment}"].to(parameter.device), moment)
    extra = {name.removeprefix(_EXTRA): each for name, each in tensors.items() if name.startswith(_EXTRA)}
    return seal["step"], seal["about"], extra


def _state(engine: Any) -> dict[str, torch.Tensor]:
    """Weights and moments, gathered from the shards of all ranks. Every rank must call this."""
    tensors = {}
    for name, parameter in _trainable(engine):
        tensors[f"{name}.weight"] = safe_get_full_fp32_param(parameter).cpu()
        for moment in _MOMENTS:
            tensors[f"{name}.{moment}"] = safe_get_full_optimizer_state(parameter, moment).cpu()
    return tensors


def _trainable(engine: Any) -> list[tuple[str, torch.nn.Parameter]]:
    return [(name, each) for name, each in engine.module.named_parameters() if each.requires_grad]


def _create_moments(optimizer: Any, step: int) -> None:
    """Create AdamW's state with its step count and moments of zero, to be overwritten by a checkpoint's.

    AdamW creates its state at its first step only, and DeepSpeed links to it in a private method: neither has a public
    way to do it before.
    """
    inner = optimizer.optimizer
    for group in inner.param_groups:
        for shard in group["params"]:
            inner.state[shard] = {"step": torch.tensor(float(step))} | {
                moment: torch.zeros_like(shard) for moment in _MOMENTS
            }
    optimizer._lazy_init_hp_params_optimizer_state()
