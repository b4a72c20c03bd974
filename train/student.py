"""The student: the base model and its processor, its frozen eye, and the loss on what it is taught to write. [edge]

Shapes: N images of all examples of a pack, T tokens, V visual tokens of an image, D width of the language model,
S supervised tokens.
"""

import dataclasses
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from peft import PeftModel
from safetensors import SafetensorError
from torch.nn import functional
from transformers import AutoConfig, Qwen3VLConfig, Qwen3VLForConditionalGeneration, Qwen3VLProcessor
from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures, Qwen3VLTextRMSNorm

from infra.errors import InputError, first_line
from pipelines.images.sealed import SealedImage
from pipelines.inference.backends.engine_config import needs_own_code, own_code_is_refused
from train import attention
from train.encoding import Encoded, read_image
from train.loss import Objective, judge
from train.packing import Batch, collate
from train.utilization import Arithmetic

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_GIB = 1 << 30


def load(base: str, precision: str, revision: str | None = None) -> tuple[Qwen3VLForConditionalGeneration, Any]:
    """The model and its processor, from a folder or the hub's cache. Raises InputError when they cannot be loaded.

    The class is named on purpose: an adapter's keys carry the class's module paths, and vLLM ignores those of another.
    """
    try:
        processor = Qwen3VLProcessor.from_pretrained(base, revision=revision, trust_remote_code=False)
        model, about = Qwen3VLForConditionalGeneration.from_pretrained(
            base,
            revision=revision or "main",
            config=read_config(base, revision),
            dtype=DTYPES[precision],
            attn_implementation={"text_config": attention.NAME, "vision_config": "sdpa"},
            output_loading_info=True,
            trust_remote_code=False,
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise InputError(
            f"{base} cannot be loaded as a Qwen3-VL model: {first_line(error)}. Set fit.base=... to another."
        ) from error
    # Transformers makes up what is missing.
    if missing := sorted(about["missing_keys"]):
        raise InputError(f"{base} lacks {len(missing)} of its weights, such as {missing[0]}. Get the model again.")
    fuse_norms(model)
    project_patches(model)
    return model, processor


def fuse_norms(model: Qwen3VLForConditionalGeneration, kind: type[torch.nn.RMSNorm] = torch.nn.RMSNorm) -> None:
    """Put torch's RMS norm in the place of Transformers', with the same weights.

    It is one kernel on a GPU and keeps its input alone; the other is seven kernels and keeps float32 copies.
    """
    language_model = model.model.language_model
    for name, norm in list(language_model.named_modules()):
        if isinstance(norm, Qwen3VLTextRMSNorm):
            fused = kind(norm.weight.shape, eps=norm.variance_epsilon, device="meta")
            fused.weight = norm.weight
            language_model.set_submodule(name, fused)


class _PatchProjection(torch.nn.Conv3d):
    """A convolution whose window is the whole of its input, computed as the one matrix product that it is."""

    def forward(self, patches_NCTHW: torch.Tensor) -> torch.Tensor:
        return functional.linear(patches_NCTHW.flatten(1), self.weight.flatten(1), self.bias)


def project_patches(model: Qwen3VLForConditionalGeneration) -> None:
    """Let the vision tower embed patches by a matrix product, with the same weights."""
    embed = model.model.visual.patch_embed
    stock = embed.proj
    embed.proj = _PatchProjection(
        stock.in_channels, stock.out_channels, stock.kernel_size, stock.stride, device="meta", dtype=stock.weight.dtype
    )
    embed.proj.weight, embed.proj.bias = stock.weight, stock.bias


def read_config(base: str, revision: str | None = None) -> Qwen3VLConfig:
    """The config of a model folder, or of the hub's cache. Raises OSError, ValueError, or InputError when it is that of
    another kind of model, or can only be read by running code."""
    try:
        config = AutoConfig.from_pretrained(base, revision=revision, trust_remote_code=False)
    except ValueError as error:
        if needs_own_code(error):
            raise own_code_is_refused(base) from error
        raise
    if not isinstance(config, Qwen3VLConfig):
        raise InputError(f"{base} is a {config.model_type}, and no Qwen3-VL model. Set fit.base=... to another.")
    return config


def now(device: torch.device) -> float:
    """Seconds on a clock that waits for what a GPU was told to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.monotonic()


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


@dataclasses.dataclass(frozen=True, slots=True)
class Shown:
    """A pack's images, in their order, and the pixels of those that have not been seen yet.

    grid_N3: image_grid_thw of them all.
    """

    images: list[SealedImage]
    grid_N3: torch.Tensor | None
    new: list[SealedImage]
    pixels: torch.Tensor | None


class Eye:
    """The frozen vision tower. What it sees in an image is kept in host memory, while there is room, for later."""

    def __init__(self, model: PeftModel, processor: Any, cache_gib: float) -> None:
        self._model = model.get_base_model().model
        self._processor = processor
        self._room = int(cache_gib * _GIB)
        self.seconds_looking = 0.0
        self._seen: dict[SealedImage, tuple[torch.Tensor, ...]] = {}

    def show(self, images: Sequence[SealedImage]) -> Shown:
        """Read what has not been seen of these images; the tower is not asked, so that a thread may do it beforehand.

        Raises InputError for an image that is not what was sealed any more.
        """
        new = [image for image in dict.fromkeys(images) if image not in self._seen]
        grids = {image: self._seen[image][0] for image in images if image not in new}
        pixels = None
        if new:
            inputs = self._processor.image_processor([read_image(image) for image in new], return_tensors="pt")
            pixels = inputs["pixel_values"]
            grids |= dict(zip(new, inputs["image_grid_thw"], strict=True))
        grid_N3 = torch.stack([grids[image] for image in images]) if images else None
        return Shown(list(images), grid_N3, new, pixels)

    def look(self, shown: Shown) -> Sight | None:
        """What the tower sees in them; None where there is none."""
        if shown.grid_N3 is None:
            return None
        fresh = dict(zip(shown.new, self._features(shown), strict=True))
        for image, sight in fresh.items():
            self._keep(image, shown.grid_N3[shown.images.index(image)].clone(), sight)
        columns = zip(
            *(fresh[image] if image in fresh else self._seen[image][1:] for image in shown.images), strict=True
        )
        device = self._model.device
        # What is kept is on the host, and what is new is not.
        return Sight(shown.grid_N3, *(torch.cat([each.to(device) for each in column]) for column in columns))

    def _features(self, shown: Shown) -> list[tuple[torch.Tensor, ...]]:
        """For each new image: the tower's last features_VD, and those of each deepstack layer."""
        if shown.pixels is None or shown.grid_N3 is None:
            return []
        places = [shown.images.index(image) for image in shown.new]
        started = now(self._model.device)
        with torch.no_grad():
            seen = self._model.get_image_features(
                shown.pixels.to(self._model.device), shown.grid_N3[places].to(self._model.device), return_dict=True
            )
        self.seconds_looking += now(self._model.device) - started
        return list(zip(seen.pooler_output, *seen.deepstack_features, strict=True))

    def _keep(self, image: SealedImage, grid_3: torch.Tensor, sight: tuple[torch.Tensor, ...]) -> None:
        num_bytes = sum(tensor.nbytes for tensor in sight)
        if num_bytes <= self._room and image not in self._seen:
            self._room -= num_bytes
            # A view would hold the whole batch.
            self._seen[image] = (grid_3, *(tensor.cpu().clone() for tensor in sight))


class TargetLoss(torch.nn.Module):
    """The adapted model as a function from a pack to the loss of its supervised tokens, weighted and summed.

    Summed and not averaged, since what it is to be divided by is known only to the whole batch over all ranks. Logits
    are made at supervised positions alone: at a real vocabulary they are larger than everything else together.
    distillation_weight: how much the divergence from the teacher counts beside the cross entropy.
    """

    def __init__(self, model: PeftModel, distillation_weight: float = 0.0) -> None:
        super().__init__()
        self.model = model
        self._distillation_weight = distillation_weight

    def forward(self, batch: Batch, sight: Sight | None) -> tuple[torch.Tensor, torch.Tensor]:
        """batch: from `Student.read`, with its sight. Returns the objective, a scalar in float32, and sums_2 of which
        it is made: cross entropy and divergence."""
        objective, sums_2 = Objective.apply(*self._hidden(batch, sight), batch.lesson, self._distillation_weight)
        return objective, sums_2

    def judge(self, batch: Batch, sight: Sight | None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The cross entropy losses_S at each supervised token, hits_S, where the likeliest token is the target, and
        the divergences_S from the teacher, 0 where it is not known."""
        with torch.no_grad():
            return judge(*self._hidden(batch, sight), batch.lesson)

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

    def __init__(
        self,
        model: PeftModel,
        processor: Any,
        cache_gib: float,
        *,
        distillation_weight: float = 0.0,
        num_readers: int = 1,
    ) -> None:
        self.model = model
        self.loss = TargetLoss(model, distillation_weight)
        self.arithmetic = Arithmetic.of(model)
        self._eye = Eye(model, processor, cache_gib)
        self._image_token = processor.image_token_id
        self._num_merged = processor.image_processor.merge_size**2
        # OpenMP's threads stop waiting awake once a process has more of them than cores, so readers have none beside
        # themselves.
        self._readers = ThreadPoolExecutor(num_readers, initializer=torch.set_num_threads, initargs=(1,))
        # With the pack itself, so that no other pack can come to have its id meanwhile.
        self._expected: dict[int, tuple[list[Encoded], Future[tuple[Batch, Shown]]]] = {}

    @property
    def seconds_looking(self) -> float:
        """How long the vision tower has worked so far."""
        return self._eye.seconds_looking

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        device: torch.device = self.model.get_base_model().device
        return device

    def expect(self, packs: Iterable[list[Encoded]]) -> None:
        """Begin to read packs that are asked for soon, while others are learned from."""
        for pack in packs:
            self._expected[id(pack)] = pack, self._readers.submit(self._prepared, pack)

    def read(self, pack: list[Encoded]) -> tuple[Batch, Sight | None]:
        """A pack as the loss takes it, on the model's device. Raises InputError for an image that cannot be read, or
        is not the one that the example's tokens were made for."""
        _, expected = self._expected.pop(id(pack), (pack, None))
        batch, shown = expected.result() if expected else self._prepared(pack)
        return batch.to(self.device), self._eye.look(shown)

    def _prepared(self, pack: list[Encoded]) -> tuple[Batch, Shown]:
        """On the CPU."""
        shown = self._eye.show([image for example in pack for image in example.images])
        self._check_shapes(pack, shown)
        base = self.model.get_base_model()
        return collate(pack, shown.grid_N3, self._image_token, base.model.get_rope_index), shown

    def _check_shapes(self, pack: list[Encoded], shown: Shown) -> None:
        """Raise InputError when an example has other visual tokens than its images give."""
        num_images = 0
        for example in pack:
            own = slice(num_images, num_images := num_images + len(example.images))
            grid_N3 = torch.zeros(0, 3) if shown.grid_N3 is None else shown.grid_N3[own]
            num_seen = int(grid_N3.prod(dim=1).sum()) // self._num_merged
            if (num_tokens := example.input_ids.count(self._image_token)) != num_seen:
                raise InputError(
                    f"The example about {', '.join(map(str, example.images)) or 'no image'} has {num_tokens} visual "
                    f"tokens, and its images give {num_seen}: they are not those that it was made for. Delete the "
                    "questions artifact to have it made again."
                )
