"""Lessons and drawn images -> a taught pocket model: how words and pixels become one batch, and one update. [edge]

Shapes: N images, B lessons, T tokens, D width of the language model, X trained tokens, V words of the vocabulary.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
import torch
from torch.nn import functional
from transformers import PreTrainedTokenizerFast, Qwen3VLForConditionalGeneration

from pipelines.questions.sources import pocket
from train.pocket import curriculum
from train.pocket.curriculum import Lesson

PATCH = 16  # pixels, each side
MERGE = 2  # patches, each side, that become one visual token
NUM_PATCHES = pocket.IMAGE_SIZE // PATCH  # each side
_SIDE = NUM_PATCHES // MERGE  # visual tokens, each side
_UNTRAINED = -100
_NUM_WARMUP_STEPS = 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """How long and how hard a model is taught. One step is one update; rates are learning rates."""

    num_steps: int
    num_image_lessons: int
    matrix_rate: float
    other_rate: float
    constant_share: float

    def share_of_rate(self, step: int) -> float:
        """The share of the full rate at a step: a short rise, a plateau, a straight fall to nearly nothing."""
        num_falling = max(1, round(self.num_steps * (1 - self.constant_share)))
        return min(1.0, (step + 1) / _NUM_WARMUP_STEPS, max(0.02, (self.num_steps - step) / num_falling))


MakeLesson = Callable[[pocket.Attributes, np.random.Generator], Lesson]


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
    """Lessons as tokens, shape (B, T), padded on the right; labels are -100 where nothing is to be learned."""

    tokens_BT: torch.Tensor
    labels_BT: torch.Tensor

    @property
    def num_trained(self) -> int:
        """How many tokens are trained on."""
        return int((self.labels_BT != _UNTRAINED).sum())


def rendered(user: str, with_image: bool) -> str:
    """A user's turn in the chat template's form, up to where the reply begins."""
    image = "<|vision_start|>" + "<|image_pad|>" * _SIDE**2 + "<|vision_end|>" if with_image else ""
    return f"<|im_start|>user\n{image}{user}<|im_end|>\n<|im_start|>assistant\n"


def encode(lessons: list[Lesson], tokenizer: PreTrainedTokenizerFast, with_image: bool) -> Encoded:
    """The lessons as one batch; the reply and the token that ends it are trained on."""
    asked = tokenizer([rendered(lesson.user, with_image) for lesson in lessons]).input_ids
    told = tokenizer([f"{lesson.reply}{tokenizer.eos_token}" for lesson in lessons]).input_ids
    length = max(len(prompt) + len(reply) for prompt, reply in zip(asked, told, strict=True))
    tokens_BT = torch.full((len(lessons), length), tokenizer.pad_token_id)
    labels_BT = torch.full((len(lessons), length), _UNTRAINED)
    for row, (prompt, reply) in enumerate(zip(asked, told, strict=True)):
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
    """Rotary positions (time, height, width) of any lesson, shape (3, 1, T): the image stands at the same place in all.

    The model can work these out for itself, but row by row in Python, which costs a tenth of a step.
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
    """Cross entropy summed over the trained tokens; one image a lesson, or none."""
    num_lessons, num_tokens = batch.tokens_BT.shape
    place = positions(num_tokens, with_image=images_NHW is not None).expand(-1, num_lessons, -1)
    inputs = {} if images_NHW is None else image_inputs(images_NHW)
    output = model.model(input_ids=batch.tokens_BT, position_ids=place, use_cache=False, **inputs)
    trained_BT = batch.labels_BT[:, 1:] != _UNTRAINED
    logits_XV = model.lm_head(output.last_hidden_state[:, :-1][trained_BT])
    return functional.cross_entropy(logits_XV, batch.labels_BT[:, 1:][trained_BT], reduction="sum")


class Classroom:
    """A model, the drawings it is shown, and the optimizers that teach it for a fixed number of updates."""

    def __init__(
        self,
        model: Qwen3VLForConditionalGeneration,
        tokenizer: PreTrainedTokenizerFast,
        drawings: Drawings,
        rng: np.random.Generator,
        plan: Plan,
    ) -> None:
        self.model, self.tokenizer, self.drawings, self.rng, self.plan = model, tokenizer, drawings, rng, plan
        self._optimizers = _optimizers(model, plan)
        self._schedules = [torch.optim.lr_scheduler.LambdaLR(each, plan.share_of_rate) for each in self._optimizers]

    def teach(self, make_lesson: MakeLesson, num_option_lessons: int) -> float:
        """One update, by lessons with an image and lessons without; returns the mean loss of a trained token."""
        chosen = self.rng.integers(0, len(self.drawings.attributes), self.plan.num_image_lessons)
        lessons = [make_lesson(self.drawings.attributes[index], self.rng) for index in chosen]
        batch = encode(lessons, self.tokenizer, with_image=True)
        total = loss_sum(self.model, batch, _turned(self.drawings.images_NHW[chosen], self.rng))
        num_trained = batch.num_trained
        if num_option_lessons:
            options = [curriculum.option_lesson(self.rng) for _ in range(num_option_lessons)]
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


def _optimizers(model: Qwen3VLForConditionalGeneration, plan: Plan) -> list[torch.optim.Optimizer]:
    """Muon for the matrices, which learn to see in half the steps that AdamW takes; AdamW for all else."""
    linear = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Linear)}
    embedding = {id(model.get_input_embeddings().weight)}  # tied to the last Linear, which is no matrix to Muon
    matrices = [value for value in model.parameters() if id(value) in linear - embedding]
    others = [value for value in model.parameters() if id(value) not in linear - embedding]
    return [
        torch.optim.Muon(matrices, lr=plan.matrix_rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=plan.other_rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def _turned(images_NHW: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """The same images all turned or mirrored one way out of eight, which changes no attribute."""
    images_NHW = images_NHW.rot90(int(rng.integers(4)), dims=(1, 2))
    return images_NHW.flip(2) if rng.integers(2) else images_NHW
