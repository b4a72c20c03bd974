"""The student: the base model and its processor, its frozen eye, and the loss on what it is taught to write. [edge]

Shapes: B examples, N images of all of them, T tokens, V visual tokens of an image, D width of the language model,
S supervised tokens, W words of the vocabulary.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch.nn import functional
from transformers import Qwen3VLForConditionalGeneration, Qwen3VLProcessor
from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures

from infra.errors import InputError
from train.collation import IGNORED, read_image

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_GIB = 1 << 30


def load(base: str, precision: str) -> tuple[Qwen3VLForConditionalGeneration, Any]:
    """The model and its processor, from a folder or the hub's cache. Raises InputError when they cannot be loaded.

    The class is named on purpose: an adapter's keys carry the class's module paths, and vLLM ignores those of another.
    """
    try:
        processor = Qwen3VLProcessor.from_pretrained(base)
        model = Qwen3VLForConditionalGeneration.from_pretrained(
            base, dtype=DTYPES[precision], attn_implementation="sdpa"
        )
    except (OSError, ValueError, KeyError) as error:
        said = str(error).strip().splitlines()[0]
        raise InputError(
            f"{base} cannot be loaded as a Qwen3-VL model: {said}. Set fit.base=... to another."
        ) from error
    return model, processor


class Eye:
    """The frozen vision tower. What it sees in an image is kept in host memory, while there is room, for later."""

    def __init__(self, model: PeftModel, processor: Any, cache_gib: float) -> None:
        self._model = model.get_base_model().model
        self._processor = processor
        self._room = int(cache_gib * _GIB)
        self._seen: dict[Path, tuple[torch.Tensor, ...]] = {}

    def look(self, images: Sequence[Path]) -> dict[str, Any]:
        """The model's image arguments for a batch: the tower's output in place of pixels, and image_grid_thw_N3.

        images: those of the first example in their order, then those of the second, and so on.
        """
        new = [image for image in dict.fromkeys(images) if image not in self._seen]
        fresh = dict(zip(new, self._features(new), strict=True)) if new else {}
        for image, sight in fresh.items():
            self._keep(image, sight)
        columns = zip(*(fresh[image] if image in fresh else self._seen[image] for image in images), strict=True)
        grid_N3, final, *deepstack = [[tensor.to(self._model.device) for tensor in column] for column in columns]
        features = BaseModelOutputWithDeepstackFeatures(pooler_output=final, deepstack_features=deepstack)
        return {"mm_encoder_outputs": {"image": features}, "image_grid_thw": torch.stack(grid_N3)}

    def _features(self, images: Sequence[Path]) -> list[tuple[torch.Tensor, ...]]:
        """For each image: its grid_3, the tower's last features_VD, and those of each deepstack layer."""
        inputs = self._processor.image_processor([read_image(image) for image in images], return_tensors="pt")
        inputs = inputs.to(self._model.device)
        grid_N3 = inputs["image_grid_thw"]
        with torch.no_grad():
            seen = self._model.get_image_features(inputs["pixel_values"], grid_N3, return_dict=True)
        return list(zip(grid_N3, seen.pooler_output, *seen.deepstack_features, strict=True))

    def _keep(self, image: Path, sight: tuple[torch.Tensor, ...]) -> None:
        num_bytes = sum(tensor.nbytes for tensor in sight)
        if num_bytes <= self._room:
            self._room -= num_bytes
            self._seen[image] = tuple(tensor.cpu().clone() for tensor in sight)  # a view would hold the whole batch


class TargetLoss(torch.nn.Module):
    """The adapted model as a function from a batch to the cross entropy of its supervised tokens, weighted and summed.

    Summed and not averaged, since what it is to be divided by is known only to the whole batch over all ranks. Logits
    are made at supervised positions alone: at a real vocabulary they are larger than everything else together.
    """

    def __init__(self, model: PeftModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: dict[str, torch.Tensor], sight: dict[str, Any]) -> torch.Tensor:
        """batch: from `collate`; sight: from `Eye.look`. Returns a scalar in float32."""
        inputs = {name: tensor for name, tensor in batch.items() if name not in ("labels", "weights")}
        base = self.model.get_base_model()
        hidden_BTD = base.model(**inputs, **sight, use_cache=False).last_hidden_state
        next_BT = batch["labels"][:, 1:]
        supervised_BT = next_BT != IGNORED
        logits_SW = base.lm_head(hidden_BTD[:, :-1][supervised_BT])
        if "weights" not in batch:
            return functional.cross_entropy(logits_SW.float(), next_BT[supervised_BT], reduction="sum")
        losses_S = functional.cross_entropy(logits_SW.float(), next_BT[supervised_BT], reduction="none")
        weights_S = batch["weights"][:, None].expand_as(next_BT)[supervised_BT]
        return losses_S @ weights_S
