"""Chat examples and drawn images -> a trained pocket model: batches, the loss and the updates. [edge]

Shapes: N images, B examples, T tokens, D width of the language model, X supervised tokens, V size of the vocabulary.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
import torch
from torch.nn import functional
from transformers import PreTrainedTokenizerFast, Qwen3VLForConditionalGeneration

from pipelines.questions.sources import pocket
from train.pocket import curriculum
from train.pocket.curriculum import ChatExample

PATCH = 16  # pixels, each side
MERGE = 2  # patches, each side, that become one visual token
NUM_PATCHES = pocket.IMAGE_SIZE // PATCH  # each side
_SIDE = NUM_PATCHES // MERGE  # visual tokens, each side
_UNTRAINED = -100
_NUM_WARMUP_STEPS = 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long a model is trained, and at which learning rates.

    num_steps: updates. num_image_lessons: examples with an image in each batch. matrix_rate, other_rate: highest
    learning rates of Muon and of AdamW. constant_share: share of the steps before the rates fall. `made.json` of the
    shipped models records these names.
    """

    num_steps: int
    num_image_lessons: int
    matrix_rate: float
    other_rate: float
    constant_share: float

    def rate_factor(self, step: int) -> float:
        """Factor of the learning rates at a step: a short linear warm-up, a plateau, and a linear fall to 0.02."""
        num_falling = max(1, round(self.num_steps * (1 - self.constant_share)))
        return min(1.0, (step + 1) / _NUM_WARMUP_STEPS, max(0.02, (self.num_steps - step) / num_falling))


MakeExample = Callable[[pocket.Attributes, np.random.Generator], ChatExample]


@dataclasses.dataclass(frozen=True)
class Drawings:
    """Images (uint8, shape (N, 96, 96)) and what each shows."""

    images_NHW: torch.Tensor
    attributes: list[pocket.Attributes]

    @classmethod
    def of_all_combinations(cls, num_images: int, rng: np.random.Generator) -> "Drawings":
        """Images of the 36 combinations in turn."""
        attributes = [pocket.COMBINATIONS[number % len(pocket.COMBINATIONS)] for number in range(num_images)]
        images = np.stack([np.asarray(pocket.draw(each, rng)) for each in attributes])
        return cls(torch.from_numpy(images), attributes)


@dataclasses.dataclass(frozen=True)
class Encoded:
    """Examples as tokens_BT and labels_BT, int64, padded on the right; labels are -100 at unsupervised tokens."""

    tokens_BT: torch.Tensor
    labels_BT: torch.Tensor

    @property
    def num_trained(self) -> int:
        """Number of supervised tokens."""
        return int((self.labels_BT != _UNTRAINED).sum())


def rendered(prompt: str, with_image: bool) -> str:
    """The prompt as the chat template renders it, up to where the reply begins."""
    image = "<|vision_start|>" + "<|image_pad|>" * _SIDE**2 + "<|vision_end|>" if with_image else ""
    return f"<|im_start|>user\n{image}{prompt}<|im_end|>\n<|im_start|>assistant\n"


def encode(examples: list[ChatExample], tokenizer: PreTrainedTokenizerFast, with_image: bool) -> Encoded:
    """The examples as one batch; the reply and the token that ends it are supervised."""
    prompts = tokenizer([rendered(example.prompt, with_image) for example in examples]).input_ids
    replies = tokenizer([f"{example.reply}{tokenizer.eos_token}" for example in examples]).input_ids
    length = max(len(prompt) + len(reply) for prompt, reply in zip(prompts, replies, strict=True))
    tokens_BT = torch.full((len(examples), length), tokenizer.pad_token_id)
    labels_BT = torch.full((len(examples), length), _UNTRAINED)
    for row, (prompt, reply) in enumerate(zip(prompts, replies, strict=True)):
        end = len(prompt) + len(reply)
        tokens_BT[row, :end] = torch.tensor(prompt + reply)
        labels_BT[row, len(prompt) : end] = torch.tensor(reply)
    return Encoded(tokens_BT, labels_BT)


def patches(images_NHW: torch.Tensor) -> torch.Tensor:
    """Grey images (uint8, 96 x 96) as the processor's pixel values: float32, shape (N * 36, 3 * 2 * 16 * 16)."""
    grid = images_NHW.float().div(127.5).sub(1).view(-1, _SIDE, MERGE, PATCH, _SIDE, MERGE, PATCH)
    grid = grid.permute(0, 1, 4, 2, 5, 3, 6).reshape(-1, 1, PATCH * PATCH)
    return grid.expand(-1, 3 * 2, -1).reshape(len(grid), -1)  # the same grey in three colours, twice in time


def image_inputs(images_NHW: torch.Tensor) -> dict[str, torch.Tensor]:
    """The model's image arguments for one image a row."""
    grid = torch.tensor([[1, NUM_PATCHES, NUM_PATCHES]] * len(images_NHW))
    return {"pixel_values": patches(images_NHW), "image_grid_thw": grid}


def positions(num_tokens: int, with_image: bool) -> torch.Tensor:
    """Rotary positions (time, height, width) of any example, shape (3, 1, T). The image is at the same place in all.

    The model can compute them itself, but row by row in Python, which takes a tenth of a step.
    """
    text_T = torch.arange(num_tokens)
    if not with_image:
        return text_T.expand(3, 1, -1)
    start = 4  # <|im_start|> user \n <|vision_start|>
    image = torch.stack(torch.meshgrid(torch.arange(1), torch.arange(_SIDE), torch.arange(_SIDE), indexing="ij"))
    after_T = torch.arange(num_tokens - start - _SIDE**2) + start + _SIDE
    parts = [text_T[:start].expand(3, -1), image.reshape(3, -1) + start, after_T.expand(3, -1)]
    return torch.cat(parts, dim=1)[:, None]


def loss_sum(
    model: Qwen3VLForConditionalGeneration, batch: Encoded, images_NHW: torch.Tensor | None = None
) -> torch.Tensor:
    """Cross entropy in nats, summed over the supervised tokens. images_NHW: one per example, or None."""
    num_examples, num_tokens = batch.tokens_BT.shape
    place = positions(num_tokens, with_image=images_NHW is not None).expand(-1, num_examples, -1)
    inputs = {} if images_NHW is None else image_inputs(images_NHW)
    output = model.model(input_ids=batch.tokens_BT, position_ids=place, use_cache=False, **inputs)
    trained_BT = batch.labels_BT[:, 1:] != _UNTRAINED
    logits_XV = model.lm_head(output.last_hidden_state[:, :-1][trained_BT])
    return functional.cross_entropy(logits_XV, batch.labels_BT[:, 1:][trained_BT], reduction="sum")


class Trainer:
    """A model, its drawings, and the optimizers that train it for a fixed number of updates."""

    def __init__(
        self,
        model: Qwen3VLForConditionalGeneration,
        tokenizer: PreTrainedTokenizerFast,
        drawings: Drawings,
        rng: np.random.Generator,
        schedule: Schedule,
    ) -> None:
        self.model, self.tokenizer, self.drawings, self.rng, self.schedule = model, tokenizer, drawings, rng, schedule
        self._optimizers = _optimizers(model, schedule)
        self._schedules = [torch.optim.lr_scheduler.LambdaLR(each, schedule.rate_factor) for each in self._optimizers]

    def step(self, make_example: MakeExample, num_option_examples: int) -> float:
        """One update, on examples with an image and on option examples without one. Returns the mean loss in nats per
        supervised token."""
        chosen = self.rng.integers(0, len(self.drawings.attributes), self.schedule.num_image_lessons)
        examples = [make_example(self.drawings.attributes[index], self.rng) for index in chosen]
        batch = encode(examples, self.tokenizer, with_image=True)
        total = loss_sum(self.model, batch, _turned(self.drawings.images_NHW[chosen], self.rng))
        num_trained = batch.num_trained
        if num_option_examples:
            options = [curriculum.option_example(self.rng) for _ in range(num_option_examples)]
            batch = encode(options, self.tokenizer, with_image=False)
            total, num_trained = total + loss_sum(self.model, batch), num_trained + batch.num_trained
        return self._update(total / num_trained)

    def _update(self, loss: torch.Tensor) -> float:
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer, schedule in zip(self._optimizers, self._schedules, strict=True):
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        return float(loss.item())


def _optimizers(model: Qwen3VLForConditionalGeneration, schedule: Schedule) -> list[torch.optim.Optimizer]:
    """Muon for the matrices, which takes half the steps that AdamW takes to learn to see; AdamW for all else."""
    linear = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Linear)}
    embedding = {id(model.get_input_embeddings().weight)}  # tied to the head, which Muon is not meant for
    matrices = [value for value in model.parameters() if id(value) in linear - embedding]
    others = [value for value in model.parameters() if id(value) not in linear - embedding]
    return [
        torch.optim.Muon(matrices, lr=schedule.matrix_rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=schedule.other_rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def _turned(images_NHW: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """All images under the same random one of eight rotations and reflections, which changes no attribute."""
    images_NHW = images_NHW.rot90(int(rng.integers(4)), dims=(1, 2))
    return images_NHW.flip(2) if rng.integers(2) else images_NHW
