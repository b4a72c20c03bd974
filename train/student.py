"""The student: the base model and its processor, its frozen eye, and the loss on what it is taught to write. [edge]

Shapes: N images of all examples of a pack, T tokens, V visual tokens of an image, D width of the language model,
S supervised tokens.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import Qwen3VLForConditionalGeneration, Qwen3VLProcessor
from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures

from infra.errors import InputError
from train import attention
from train.encoding import Encoded, read_image
from train.loss import CrossEntropy, judge
from train.packing import Batch, collate

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_GIB = 1 << 30


def load(base: str, precision: str) -> tuple[Qwen3VLForConditionalGeneration, Any]:
    """The model and its processor, from a folder or the hub's cache. Raises InputError when they cannot be loaded.

    The class is named on purpose: an adapter's keys carry the class's module paths, and vLLM ignores those of another.
    """
    try:
        processor = Qwen3VLProcessor.from_pretrained(base)
        model = Qwen3VLForConditionalGeneration.from_pretrained(
            base,
            dtype=DTYPES[precision],
            attn_implementation={"text_config": attention.NAME, "vision_config": "sdpa"},
        )
    except (OSError, ValueError, KeyError) as error:
        said = str(error).strip().splitlines()[0]
        raise InputError(
            f"{base} cannot be loaded as a Qwen3-VL model: {said}. Set fit.base=... to another."
        ) from error
    return model, processor


def keep_little(model: PeftModel) -> None:
    """Gradient checkpointing: of each layer of the language model keep its input alone, and compute it twice."""
    model.get_base_model().model.language_model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()


class Sight:
    """What the vision tower sees in the images of a pack: image_grid_thw_N3, on the CPU, and features, on the model's
    device: the last features_VD, and those of each deepstack layer."""

    def __init__(self, grid_N3: torch.Tensor, final_VD: torch.Tensor, *deepstack_VD: torch.Tensor) -> None:
        self.grid_N3 = grid_N3
        self._final_VD = final_VD
        self._deepstack_VD = list(deepstack_VD)

    def arguments(self) -> dict[str, Any]:
        """The model's arguments in place of pixels."""
        features = BaseModelOutputWithDeepstackFeatures(
            pooler_output=[self._final_VD], deepstack_features=[[each] for each in self._deepstack_VD]
        )
        return {"mm_encoder_outputs": {"image": features}, "image_grid_thw": self.grid_N3}


class Eye:
    """The frozen vision tower. What it sees in an image is kept in host memory, while there is room, for later."""

    def __init__(self, model: PeftModel, processor: Any, cache_gib: float) -> None:
        self._model = model.get_base_model().model
        self._processor = processor
        self._room = int(cache_gib * _GIB)
        self.seconds_looking = 0.0
        self._seen: dict[Path, tuple[torch.Tensor, ...]] = {}

    def look(self, images: Sequence[Path]) -> Sight | None:
        """What the tower sees in images, in their order; None where there is none."""
        if not images:
            return None
        new = [image for image in dict.fromkeys(images) if image not in self._seen]
        fresh = dict(zip(new, self._features(new), strict=True)) if new else {}
        for image, sight in fresh.items():
            self._keep(image, sight)
        columns = zip(*(fresh[image] if image in fresh else self._seen[image] for image in images), strict=True)
        grids, final, *deepstack = [list(column) for column in columns]
        device = self._model.device
        return Sight(torch.stack(grids), *(torch.cat(each).to(device) for each in (final, *deepstack)))

    def _features(self, images: Sequence[Path]) -> list[tuple[torch.Tensor, ...]]:
        """For each image: its grid_3, the tower's last features_VD, and those of each deepstack layer."""
        inputs = self._processor.image_processor([read_image(image) for image in images], return_tensors="pt")
        inputs = inputs.to(self._model.device)
        grid_N3 = inputs["image_grid_thw"]
        started = time.monotonic()
        with torch.no_grad():
            seen = self._model.get_image_features(inputs["pixel_values"], grid_N3, return_dict=True)
        self.seconds_looking += time.monotonic() - started
        return list(zip(grid_N3.cpu(), seen.pooler_output, *seen.deepstack_features, strict=True))

    def _keep(self, image: Path, sight: tuple[torch.Tensor, ...]) -> None:
        num_bytes = sum(tensor.nbytes for tensor in sight)
        if num_bytes <= self._room:
            self._room -= num_bytes
            self._seen[image] = tuple(tensor.cpu().clone() for tensor in sight)  # a view would hold the whole batch


class TargetLoss(torch.nn.Module):
    """The adapted model as a function from a pack to the cross entropy of its supervised tokens, weighted and summed.

    Summed and not averaged, since what it is to be divided by is known only to the whole batch over all ranks. Logits
    are made at supervised positions alone: at a real vocabulary they are larger than everything else together.
    """

    def __init__(self, model: PeftModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch, sight: Sight | None) -> torch.Tensor:
        """batch: from `Student.prepare`, with its sight. Returns a scalar in float32."""
        hidden_SD, head_WD = self._hidden(batch, sight)
        loss: torch.Tensor = CrossEntropy.apply(hidden_SD, head_WD, batch.targets_S, batch.weights_S)
        return loss

    def judge(self, batch: Batch, sight: Sight | None) -> tuple[torch.Tensor, torch.Tensor]:
        """The cross entropy losses_S at each supervised token, and hits_S, where the likeliest token is the target."""
        with torch.no_grad():
            judged: tuple[torch.Tensor, torch.Tensor] = judge(*self._hidden(batch, sight), batch.targets_S)
            return judged

    def _hidden(self, batch: Batch, sight: Sight | None) -> tuple[torch.Tensor, torch.Tensor]:
        base = self.model.get_base_model()
        seen = {} if sight is None else sight.arguments()
        hidden_1TD = base.model(
            input_ids=batch.input_ids_1T,
            position_ids=batch.positions_31T,
            lengths=batch.lengths,
            use_cache=False,
            **seen,
        ).last_hidden_state
        return hidden_1TD[0, batch.predicting_S], base.lm_head.weight


class Student:
    """An adapted model at its lessons: what reads packs, and the loss that is learned from."""

    def __init__(self, model: PeftModel, processor: Any, cache_gib: float) -> None:
        self.model = model
        self.loss = TargetLoss(model)
        self._eye = Eye(model, processor, cache_gib)
        self._image_token = processor.image_token_id

    @property
    def seconds_looking(self) -> float:
        """How long the vision tower has worked so far."""
        return self._eye.seconds_looking

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        device: torch.device = self.model.get_base_model().device
        return device

    def read(self, pack: Sequence[Encoded]) -> tuple[Batch, Sight | None]:
        """A pack as the loss takes it, on the model's device. Raises InputError for an image that cannot be read."""
        base = self.model.get_base_model()
        sight = self._eye.look([image for example in pack for image in example.images])
        grid_N3 = None if sight is None else sight.grid_N3
        batch = collate(pack, grid_N3, self._image_token, base.model.get_rope_index)
        return batch.to(self.device), sight
