"""The student: the base model and its processor, its frozen vision encoder, and the loss on its targets. [edge]

Shapes: N images of all examples of a pack, T tokens, V visual tokens, D width of the language model, S supervised
tokens.
"""

import dataclasses
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from peft import PeftModel
from safetensors import SafetensorError
from transformers import AutoConfig, Qwen3VLConfig, Qwen3VLForConditionalGeneration, Qwen3VLProcessor
from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures

from infra.errors import InputError, first_line
from infra.figures import GIB
from pipelines.images.sealed import SealedImage
from pipelines.inference.backends.engine_config import needs_own_code, own_code_is_refused
from train import attention
from train.encoding import Encoded, read_image
from train.layers import use_fused_norms, use_matmul_patch_embedding
from train.loss import Objective, token_metrics
from train.packing import Batch, collate
from train.utilization import FlopCounter

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def load(base: str, precision: str, revision: str | None = None) -> tuple[Qwen3VLForConditionalGeneration, Any]:
    """The model and its processor, from a folder or the hub's cache. Raises InputError when they cannot be loaded.

    precision: `fp32` or `bf16`. The class is fixed and not looked up in the config, because an adapter's keys contain
    its module paths, and vLLM ignores keys of any other class.
    """
    try:
        processor = Qwen3VLProcessor.from_pretrained(base, revision=revision, trust_remote_code=False)
        model, loading_info = Qwen3VLForConditionalGeneration.from_pretrained(
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
    # Transformers fills missing weights with random numbers.
    if missing := sorted(loading_info["missing_keys"]):
        raise InputError(f"{base} lacks {len(missing)} of its weights, such as {missing[0]}. Get the model again.")
    use_fused_norms(model)
    use_matmul_patch_embedding(model)
    return model, processor


def read_config(base: str, revision: str | None = None) -> Qwen3VLConfig:
    """The config of a model folder, or of the hub's cache.

    Raises OSError or ValueError when it cannot be read, and InputError when it belongs to another kind of model or
    needs the model's own code.
    """
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
    """Seconds on a monotonic clock, read after all work queued on a GPU is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.monotonic()


def enable_gradient_checkpointing(model: PeftModel) -> None:
    """Keep only the input of each language layer for the backward pass, and compute the layer a second time there.

    Transformers does this in training mode only, which changes nothing else: there is no dropout.
    """
    model.get_base_model().model.language_model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()


class VisualFeatures:
    """What the vision encoder makes of the images of a pack.

    grid_N3: image_grid_thw, on the CPU. final_VD: the last features, on the model's device. deepstack_VD: those of each
    deepstack layer.
    """

    def __init__(self, grid_N3: torch.Tensor, final_VD: torch.Tensor, *deepstack_VD: torch.Tensor) -> None:
        self.grid_N3 = grid_N3
        self._final_VD = final_VD
        self._deepstack_VD = list(deepstack_VD)

    def arguments(self) -> dict[str, Any]:
        """The model's arguments that replace pixels."""
        features = BaseModelOutputWithDeepstackFeatures(
            pooler_output=[self._final_VD], deepstack_features=[[each] for each in self._deepstack_VD]
        )
        return {"mm_encoder_outputs": {"image": features}, "image_grid_thw": self.grid_N3}


@dataclasses.dataclass(frozen=True, slots=True)
class PreparedImages:
    """The images of a pack, in order, read as far as the vision encoder needs them.

    grid_N3: image_grid_thw of all images; None without images. new: the images whose features are not cached, each
    once. pixels: of the new ones, as the processor makes them.
    """

    images: list[SealedImage]
    grid_N3: torch.Tensor | None
    new: list[SealedImage]
    pixels: torch.Tensor | None


class VisionEncoder:
    """The frozen vision encoder. The features of an image are cached in host memory, up to a limit."""

    def __init__(self, model: PeftModel, processor: Any, cache_gib: float) -> None:
        self._model = model.get_base_model().model
        self._processor = processor
        self._free_bytes = int(cache_gib * GIB)
        self.seconds = 0.0  # spent in the encoder so far
        # image -> grid_3, and the features of the last layer and of each deepstack layer
        self._cache: dict[SealedImage, tuple[torch.Tensor, ...]] = {}

    def prepare(self, images: Sequence[SealedImage]) -> PreparedImages:
        """Read and preprocess the images that are not cached. Runs no model, so a reader thread can do it in advance.

        Raises InputError for an image whose bytes have changed since the questions were sealed.
        """
        new = [image for image in dict.fromkeys(images) if image not in self._cache]
        grids = {image: self._cache[image][0] for image in images if image not in new}
        pixels = None
        if new:
            inputs = self._processor.image_processor([read_image(image) for image in new], return_tensors="pt")
            pixels = inputs["pixel_values"]
            grids |= dict(zip(new, inputs["image_grid_thw"], strict=True))
        grid_N3 = torch.stack([grids[image] for image in images]) if images else None
        return PreparedImages(list(images), grid_N3, new, pixels)

    def encode(self, prepared: PreparedImages) -> VisualFeatures | None:
        """The features of all images, from the cache or from the model; None without images."""
        if prepared.grid_N3 is None:
            return None
        fresh = dict(zip(prepared.new, self._encode_new(prepared), strict=True))
        for image, features in fresh.items():
            self._add_to_cache(image, prepared.grid_N3[prepared.images.index(image)].clone(), features)
        columns = zip(
            *(fresh[image] if image in fresh else self._cache[image][1:] for image in prepared.images), strict=True
        )
        device = self._model.device
        # Cached features are on the host, new ones on the device.
        return VisualFeatures(
            prepared.grid_N3, *(torch.cat([each.to(device) for each in column]) for column in columns)
        )

    def _encode_new(self, prepared: PreparedImages) -> list[tuple[torch.Tensor, ...]]:
        """For each new image: the last features_VD, and those of each deepstack layer."""
        if prepared.pixels is None or prepared.grid_N3 is None:
            return []
        indices = [prepared.images.index(image) for image in prepared.new]
        device = self._model.device
        started = now(device)
        with torch.no_grad():
            output = self._model.get_image_features(
                prepared.pixels.to(device), prepared.grid_N3[indices].to(device), return_dict=True
            )
        self.seconds += now(device) - started
        return list(zip(output.pooler_output, *output.deepstack_features, strict=True))

    def _add_to_cache(self, image: SealedImage, grid_3: torch.Tensor, features: tuple[torch.Tensor, ...]) -> None:
        num_bytes = sum(tensor.nbytes for tensor in features)
        if num_bytes <= self._free_bytes and image not in self._cache:
            self._free_bytes -= num_bytes
            # Clones: a view would keep the features of all images of the pack in memory.
            self._cache[image] = (grid_3, *(tensor.cpu().clone() for tensor in features))


class TargetLoss(torch.nn.Module):
    """The adapted model as a function from a pack to its loss: summed over the supervised tokens, each with its weight.

    It is a sum and not a mean, because the divisor is a total of the whole batch over all ranks. Logits are computed at
    supervised tokens only: with a real vocabulary they are larger than everything else together. distillation_weight:
    weight of the divergence from the teacher, beside 1 for the cross entropy.
    """

    def __init__(self, model: PeftModel, distillation_weight: float = 0.0) -> None:
        super().__init__()
        self.model = model
        self._distillation_weight = distillation_weight

    def forward(self, batch: Batch, features: VisualFeatures | None) -> tuple[torch.Tensor, torch.Tensor]:
        """batch, features: from `Student.read`. Returns the objective, a scalar in float32, and its two parts sums_2,
        the cross entropy and the divergence, in nats and without a gradient."""
        objective, sums_2 = Objective.apply(*self.hidden(batch, features), batch.targets, self._distillation_weight)
        return objective, sums_2

    def token_metrics(
        self, batch: Batch, features: VisualFeatures | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of each supervised token, without a gradient: losses_S and kls_S in nats, and hits_S, as `loss.token_metrics`
        gives them."""
        with torch.no_grad():
            return token_metrics(*self.hidden(batch, features), batch.targets)

    def hidden(self, batch: Batch, features: VisualFeatures | None) -> tuple[torch.Tensor, torch.Tensor]:
        """The last hidden_SD at the tokens that predict a supervised one, and the head's weights_VD (V the size of the
        vocabulary)."""
        base = self.model.get_base_model()
        images = {} if features is None else features.arguments()
        hidden_1TD = base.model(
            input_ids=batch.input_ids_1T,
            position_ids=batch.positions_31T,
            lengths=batch.lengths,
            use_cache=False,
            **images,
        ).last_hidden_state
        return hidden_1TD[0, batch.predicting_S], base.lm_head.weight


class Student:
    """An adapted model, the loss that it is trained on, and the threads that read its packs in advance."""

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
        self.flop_counter = FlopCounter.of(model)
        self._vision_encoder = VisionEncoder(model, processor, cache_gib)
        self._image_token = processor.image_token_id
        self._num_merged = processor.image_processor.merge_size**2
        # One OpenMP thread each: when a process has more OpenMP threads than cores, all of them, the training loop's
        # included, sleep between operations instead of spinning, which is slower.
        self._readers = ThreadPoolExecutor(num_readers, initializer=torch.set_num_threads, initargs=(1,))
        # By id of the pack. The pack is kept as well, so that its id cannot be reused for another one.
        self._prefetched: dict[int, tuple[list[Encoded], Future[tuple[Batch, PreparedImages]]]] = {}

    @property
    def vision_seconds(self) -> float:
        """Seconds that the vision encoder has taken so far."""
        return self._vision_encoder.seconds

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        device: torch.device = self.model.get_base_model().device
        return device

    @property
    def num_prefetched(self) -> int:
        """How many packs are being read in advance, or wait to be asked for by `read`."""
        return len(self._prefetched)

    def prefetch(self, packs: Iterable[list[Encoded]]) -> None:
        """Start to read packs in the background; a later `read` of the same list object gets the result."""
        for pack in packs:
            self._prefetched[id(pack)] = pack, self._readers.submit(self._prepared, pack)

    def read(self, pack: list[Encoded]) -> tuple[Batch, VisualFeatures | None]:
        """A pack as the loss takes it, on the model's device. Raises InputError for an image that cannot be read, or
        whose number of visual tokens is not the one in the example."""
        _, prefetched = self._prefetched.pop(id(pack), (pack, None))
        batch, prepared = prefetched.result() if prefetched else self._prepared(pack)
        return batch.to(self.device), self._vision_encoder.encode(prepared)

    def _prepared(self, pack: list[Encoded]) -> tuple[Batch, PreparedImages]:
        """The pack on the CPU, and its images as far as the vision encoder needs them."""
        prepared = self._vision_encoder.prepare([image for example in pack for image in example.images])
        self._check_visual_tokens(pack, prepared)
        base = self.model.get_base_model()
        return collate(pack, prepared.grid_N3, self._image_token, base.model.get_rope_index), prepared

    def _check_visual_tokens(self, pack: list[Encoded], prepared: PreparedImages) -> None:
        """Raise InputError when an example has another number of visual tokens than its images give."""
        num_images = 0
        for example in pack:
            own = slice(num_images, num_images := num_images + len(example.images))
            grid_N3 = torch.zeros(0, 3) if prepared.grid_N3 is None else prepared.grid_N3[own]
            num_given = int(grid_N3.prod(dim=1).sum()) // self._num_merged
            if (num_tokens := example.input_ids.count(self._image_token)) != num_given:
                raise InputError(
                    f"The example about {', '.join(map(str, example.images)) or 'no image'} has {num_tokens} visual "
                    f"tokens, and its images give {num_given}: they are not those that it was made for. Delete the "
                    "questions artifact to have it made again."
                )
