"""Examples -> batches: one rendering, one span of supervised tokens, one plan of who sees what when.

Shapes: B examples, T tokens of the longest of them, E examples of the table.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from infra.errors import InputError
from pipelines import images
from pipelines.records import TrainingExample
from train.recipes import FitConfig

IGNORED = -100  # the label of a position that is not trained on, as torch's cross entropy has it
TOO_LONG = "too_long"
MARKUP = "chat_markup"  # the text holds a token of the chat format itself, and would break out of its turn


@dataclasses.dataclass(frozen=True, slots=True)
class Encoded:
    """An example as tokens, with its images' tokens expanded; the last `num_targets` of them are trained on.

    weight: how much the loss of each of these counts.
    """

    images: tuple[Path, ...]
    input_ids: list[int]
    num_targets: int
    weight: float = 1.0


def encode(
    examples: Sequence[TrainingExample], folder: Path, processor: Any, max_length: int
) -> tuple[list[Encoded], dict[str, int]]:
    """The examples as tokens, in order, and how many were left out by reason; none is ever cut.

    folder: the one that the examples' image paths are below. Raises InputError for an image that cannot be read, or
    a chat template that renders the assistant's turn otherwise than it is asked for in generation.
    """
    reasons = {TOO_LONG: 0, MARKUP: 0}
    num_visual: dict[Path, int] = {}
    encoded = []
    for example in examples:
        paths = tuple(folder / image for image in example.images)
        num_visual |= {path: count_visual_tokens(path, processor) for path in paths if path not in num_visual}
        if any(token in example.prompt + example.target for token in processor.tokenizer.all_special_tokens):
            reasons[MARKUP] += 1
            continue
        tokens = encode_one(example, paths, [num_visual[path] for path in paths], processor)
        if len(tokens.input_ids) > max_length:
            reasons[TOO_LONG] += 1
        else:
            encoded.append(tokens)
    return encoded, {reason: count for reason, count in reasons.items() if count}


def encode_one(
    example: TrainingExample, paths: tuple[Path, ...], num_visual_tokens: Sequence[int], processor: Any
) -> Encoded:
    """One example as tokens: those that the model is asked with, as in generation, and then those that it is to write.

    paths, num_visual_tokens: of each of its images, in order. The two parts are tokenized apart, so that no token
    reaches over the border between them.
    """
    asked, answered = render(example, processor)
    before, *after = asked.split(processor.image_token)
    expanded = [processor.image_token * num + text for num, text in zip(num_visual_tokens, after, strict=True)]
    asked = before + "".join(expanded)
    asked_ids, answered_ids = processor.tokenizer([asked, answered], add_special_tokens=False)["input_ids"]
    return Encoded(paths, asked_ids + answered_ids, len(answered_ids), example.weight)


def render(example: TrainingExample, processor: Any) -> tuple[str, str]:
    """What the model is asked with, as text, and what it is to write: the target and the token that closes the turn."""
    shown = [{"type": "image"}] * len(example.images)
    user = {"role": "user", "content": [*shown, {"type": "text", "text": example.prompt}]}
    assistant = {"role": "assistant", "content": [{"type": "text", "text": example.target}]}
    asked = str(processor.apply_chat_template([user], tokenize=False, add_generation_prompt=True))
    whole = str(processor.apply_chat_template([user, assistant], tokenize=False))
    if not whole.startswith(asked + example.target):
        raise InputError(
            f"The chat template of {processor.tokenizer.name_or_path} renders an answered turn unlike one that is to "
            "be answered: what is trained would not be what is asked. Set fit.base=... to a model that does not think."
        )
    if (num_places := asked.count(processor.image_token)) != len(shown):
        raise InputError(
            f"The chat template of {processor.tokenizer.name_or_path} has {num_places} places for {len(shown)} images. "
            "Set fit.base=... to a model whose template takes several."
        )
    return asked, whole.removeprefix(asked).rstrip()


def count_visual_tokens(image: Path, processor: Any) -> int:
    """Number of tokens that an image takes in the language model; nothing of it is decoded but its size in pixels."""
    try:
        width, height = images.size(image)
    except images.UnreadableImageError as error:
        raise _unreadable(image, error) from error
    num_patches = processor.image_processor.get_number_of_image_patches(height, width)
    return int(num_patches) // int(processor.image_processor.merge_size) ** 2


def read_image(image: Path) -> Image.Image:
    """The whole image, as RGB. Raises InputError when it cannot be read."""
    try:
        return images.read(image)
    except images.UnreadableImageError as error:
        raise _unreadable(image, error) from error


def _unreadable(image: Path, error: Exception) -> InputError:
    return InputError(f"Image {image} cannot be read ({error}). Delete the questions artifact to have it made again.")


def collate(examples: Sequence[Encoded], processor: Any) -> dict[str, torch.Tensor]:
    """A batch, padded on the right to its longest example.

    Returns input_ids_BT, attention_mask_BT, labels_BT (IGNORED where nothing is trained on) and mm_token_type_ids_BT,
    1 at image tokens, without which the model's rotary positions are wrong and nothing crashes; and weights_B where not
    every example counts for 1.
    """
    length = max(len(example.input_ids) for example in examples)
    shape = (len(examples), length)
    ids_BT = torch.full(shape, processor.tokenizer.pad_token_id)
    mask_BT = torch.zeros(shape, dtype=torch.long)
    labels_BT = torch.full(shape, IGNORED)
    for row, example in enumerate(examples):
        tokens_T = torch.tensor(example.input_ids)
        ids_BT[row, : len(tokens_T)] = tokens_T
        mask_BT[row, : len(tokens_T)] = 1
        labels_BT[row, len(tokens_T) - example.num_targets : len(tokens_T)] = tokens_T[-example.num_targets :]
    types_BT = torch.tensor(processor.create_mm_token_type_ids(ids_BT.tolist()))
    batch = {"input_ids": ids_BT, "attention_mask": mask_BT, "mm_token_type_ids": types_BT, "labels": labels_BT}
    if any(example.weight != 1 for example in examples):
        batch["weights"] = torch.tensor([example.weight for example in examples], dtype=torch.float32)
    return batch


@dataclasses.dataclass(frozen=True, slots=True)
class Share:
    """What one rank does in one update: its micro-batches, and the tokens of the whole batch over all ranks.

    total_weight: of the supervised ones.
    """

    micro_batches: list[list[Encoded]]
    num_targets: int
    num_tokens: int
    total_weight: float


def plan(examples: Sequence[Encoded], config: FitConfig, rank: int, num_ranks: int) -> Iterator[Share]:
    """This rank's share of every update: epochs in a seeded order, one after the other, cut into batches.

    Every rank lays the same plan, so each knows the supervised tokens of the whole batch without asking. Within a batch
    the ranks take turns down the examples sorted by length: they work equally long, and pad little.
    """
    indices = _shuffled_epochs(len(examples), config.seed)
    for _ in range(config.num_steps):
        batch = [examples[next(indices)] for _ in range(config.batch_size)]
        own = sorted(batch, key=lambda example: len(example.input_ids))[rank::num_ranks]
        yield Share(
            [own[start : start + config.micro_batch_size] for start in range(0, len(own), config.micro_batch_size)],
            sum(example.num_targets for example in batch),
            sum(len(example.input_ids) for example in batch),
            sum(example.weight * example.num_targets for example in batch),
        )


def _shuffled_epochs(num_examples: int, seed: int) -> Iterator[int]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.randperm(num_examples, generator=generator).tolist()
