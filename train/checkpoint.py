"""A fit that goes on where it was: what an update depends on, written every so many steps and sealed. [edge]

A checkpoint is a folder `step-000050` with `state.safetensors`, the weights and moments of each adapter matrix by name,
in float32, and `checkpoint.json`, written last, with the digest of the former. Any number of workers takes it up, since
nothing in it is of a rank; all else that is random is a function of the seed and the step.
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
from safetensors.torch import load_file

from infra.digests import digest_file
from infra.manifest import write_json
from train.work import CHECKPOINTS_KEPT, save_tensors, writing

_STATE, _SEAL = "state.safetensors", "checkpoint.json"
_MOMENTS = ("exp_avg", "exp_avg_sq")
_OF_THE_LOOP = "kept."  # begins the names of tensors that are not the engine's own


def save(
    folder: Path, engine: Any, step: int, rank: int, about: dict[str, Any], kept: Mapping[str, torch.Tensor]
) -> None:
    """Write the state after a step, all ranks together, and forget all but the newest checkpoints.

    about, kept: what the loop wants to have when it goes on; anything JSON holds, and tensors.
    """
    tensors = _state(engine) | {f"{_OF_THE_LOOP}{name}": each for name, each in kept.items()}
    if rank == 0:
        place = folder / f"step-{step:06}"
        draft = folder / f".step-{step:06}.draft"
        with writing(folder):
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir(parents=True)
            save_tensors(tensors, draft / _STATE)
            write_json(draft / _SEAL, {"step": step, "sha256": digest_file(draft / _STATE), "about": about})
            shutil.rmtree(place, ignore_errors=True)
            draft.rename(place)
        for old in sealed(folder)[CHECKPOINTS_KEPT:]:
            shutil.rmtree(old, ignore_errors=True)
    torch.distributed.barrier()


def sealed(folder: Path) -> list[Path]:
    """The folders of finished checkpoints, the newest first; whether their content is whole is not looked at."""
    return sorted((seal.parent for seal in folder.glob(f"step-*/{_SEAL}")), reverse=True)


def agreed(folder: Path, rank: int) -> Path | None:
    """The newest checkpoint as the first rank finds it, on every rank: on storage that they share, others may see more
    or less of it for a while."""
    found = [newest(folder) if rank == 0 else None]
    torch.distributed.broadcast_object_list(found, src=0)
    return found[0]


def newest(folder: Path) -> Path | None:
    """The newest checkpoint whose content is what was sealed; a damaged one is passed over for an older."""
    for place in sealed(folder):
        try:
            about = json.loads((place / _SEAL).read_text())
            if about["sha256"] == digest_file(place / _STATE):
                return place
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            continue
    return None


def restore(place: Path, engine: Any) -> tuple[int, dict[str, Any], dict[str, torch.Tensor]]:
    """Put the engine into the state of a checkpoint, on every rank. Returns its step, and what `save` was given."""
    seal = json.loads((place / _SEAL).read_text())
    tensors = load_file(place / _STATE)
    _make_moments(engine.optimizer, seal["step"])
    for name, parameter in _learning(engine):
        weight = tensors[f"{name}.weight"].to(parameter.device)
        safe_set_full_fp32_param(parameter, weight)
        parameter.data.copy_(weight)
        for moment in _MOMENTS:
            safe_set_full_optimizer_state(parameter, tensors[f"{name}.{moment}"].to(parameter.device), moment)
    start = len(_OF_THE_LOOP)
    kept = {name[start:]: each for name, each in tensors.items() if name.startswith(_OF_THE_LOOP)}
    return seal["step"], seal["about"], kept


def _state(engine: Any) -> dict[str, torch.Tensor]:
    """Gathered from the ranks' shards: every rank must ask."""
    tensors = {}
    for name, parameter in _learning(engine):
        tensors[f"{name}.weight"] = safe_get_full_fp32_param(parameter).cpu()
        for moment in _MOMENTS:
            tensors[f"{name}.{moment}"] = safe_get_full_optimizer_state(parameter, moment).cpu()
    return tensors


def _learning(engine: Any) -> list[tuple[str, torch.nn.Parameter]]:
    return [(name, each) for name, each in engine.module.named_parameters() if each.requires_grad]


def _make_moments(optimizer: Any, step: int) -> None:
    """Give AdamW the state that it would have after so many steps; it makes one only when it takes its first."""
    inner = optimizer.optimizer
    for group in inner.param_groups:
        for shard in group["params"]:
            inner.state[shard] = {"step": torch.tensor(float(step))} | {
                moment: torch.zeros_like(shard) for moment in _MOMENTS
            }
    optimizer._lazy_init_hp_params_optimizer_state()
