"""Example -> tokens: one rendering, and one span of them that is trained on."""

import dataclasses
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from infra.errors import InputError
from pipelines import images
from pipelines.records import TrainingExample
from pipelines.teaching.logprobs import Likeliest
from train import distillation
from train.distillation import Told

TOO_LONG = "too_long"
MARKUP = "chat_markup"  # the text holds a token of the chat format itself, and would break out of its turn


@dataclasses.dataclass(frozen=True, slots=True)
class Encoded:
    """An example as tokens, with its images' tokens expanded; the last `num_targets` of them are trained on.

    weight: how much the loss of each of these counts. told: what a teacher held likely at the first of them.
    """

    images: tuple[Path, ...]
    input_ids: "array[int]"
    num_targets: int
    weight: float = 1.0
    told: Told | None = dataclasses.field(default=None, compare=False)

    @property
    def num_told(self) -> int:
        """At how many of them a teacher's distribution is known."""
        return 0 if self.told is None else len(self.told.tokens_PK)


def encode(
    examples: Sequence[TrainingExample],
    folder: Path,
    processor: Any,
    max_length: int,
    known: Mapping[str, Likeliest] | None = None,
) -> tuple[list[Encoded], dict[str, int]]:
    """The examples as tokens, in order, and how many were left out by reason; none is ever cut.

    folder: the one that the examples' image paths are below. known: what a teacher held likely, by rationale. Raises
    InputError for an image that cannot be read, or a chat template that renders the assistant's turn otherwise than it
    is asked for in generation.
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
        tokens = encode_one(example, paths, [num_visual[path] for path in paths], processor, known or {})
        if len(tokens.input_ids) > max_length:
            reasons[TOO_LONG] += 1
        else:
            encoded.append(tokens)
    return encoded, {reason: count for reason, count in reasons.items() if count}


def encode_one(
    example: TrainingExample,
    paths: tuple[Path, ...],
    num_visual_tokens: Sequence[int],
    processor: Any,
    known: Mapping[str, Likeliest],
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
    told = distillation.told(answered_ids, example.rationale_id, known)
    return Encoded(paths, array("i", asked_ids + answered_ids), len(answered_ids), example.weight, told)


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
