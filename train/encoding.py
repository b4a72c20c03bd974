"""Example -> tokens: one rendering, and one span of them that is trained on."""

import dataclasses
from array import array
from collections.abc import Iterator, Mapping, Sequence, Set
from itertools import repeat
from pathlib import Path
from typing import Any

from PIL import Image

from infra.errors import InputError
from pipelines.images import sealed
from pipelines.images.decoding import UnreadableImageError
from pipelines.images.sealed import SealedImage
from pipelines.inference.logprobs import TopTokens
from pipelines.records import StoredImage, TrainingExample, tables
from train import distillation
from train.distillation import Told

TOO_LONG = "too_long"
MARKUP = "chat_markup"  # the text holds a token of the chat format itself, and would break out of its turn
_AT_ONCE = 1024


@dataclasses.dataclass(frozen=True, slots=True)
class Encoded:
    """An example as tokens, with its images' tokens expanded; the last `num_targets` of them are trained on.

    weight: how much the loss of each of these counts. told: what a teacher held likely at the first of them.
    """

    images: tuple[SealedImage, ...]
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
    known: Mapping[str, TopTokens] | None = None,
) -> tuple[list[Encoded], dict[str, int]]:
    """The examples as tokens, in order, and how many were left out by reason; none is ever cut.

    folder: the questions artifact, which has the images, and the table that says how large they are; none of them is
    opened. known: what a teacher held likely, by rationale. Raises InputError for an image that the table does not
    have, or a chat template that renders the assistant's turn otherwise than it is asked for in generation.
    """
    num_visual = count_visual_tokens({image for example in examples for image in example.images}, folder, processor)
    special = processor.tokenizer.all_special_tokens
    plain = [each for each in examples if not any(token in each.prompt + each.target for token in special)]
    reasons = {TOO_LONG: 0, MARKUP: len(examples) - len(plain)}
    encoded = []
    for start in range(0, len(plain), _AT_ONCE):
        for example, asked, answered in _tokenized(plain[start : start + _AT_ONCE], processor):
            nums = [num_visual[image] for image in example.images]
            ids = array("i", [*_expanded(asked, nums, processor.image_token_id), *answered])
            if len(ids) > max_length:
                reasons[TOO_LONG] += 1
                continue
            told = distillation.told(answered, example.rationale_id, known or {})
            encoded.append(Encoded(sealed.of(folder, example), ids, len(answered), example.weight, told))
    return encoded, {reason: count for reason, count in reasons.items() if count}


def _tokenized(
    examples: Sequence[TrainingExample], processor: Any
) -> Iterator[tuple[TrainingExample, list[int], list[int]]]:
    """Each example with the tokens that the model is asked with, one for each image, and those that it is to write.

    The two parts are tokenized apart, so that no token reaches over the border between them; all of them in one call,
    so that the tokenizer has work for every core.
    """
    texts = [text for example in examples for text in render(example, processor)]
    ids = processor.tokenizer(texts, add_special_tokens=False)["input_ids"]
    return zip(examples, ids[::2], ids[1::2], strict=True)


def _expanded(asked: Sequence[int], num_visual_tokens: Sequence[int], image_token: int) -> Iterator[int]:
    """The tokens with each image's as often as it takes; as text, they would take longer than all the rest."""
    nums = iter(num_visual_tokens)
    for token in asked:
        yield from repeat(token, next(nums) if token == image_token else 1)


def render(example: TrainingExample, processor: Any) -> tuple[str, str]:
    """What the model is asked with, as text, and what it is to write: the target and the token that closes the turn."""
    places = [{"type": "image"}] * len(example.images)
    user = {"role": "user", "content": [*places, {"type": "text", "text": example.prompt}]}
    assistant = {"role": "assistant", "content": [{"type": "text", "text": example.target}]}
    asked = str(processor.apply_chat_template([user], tokenize=False, add_generation_prompt=True))
    whole = str(processor.apply_chat_template([user, assistant], tokenize=False))
    if not whole.startswith(asked + example.target):
        raise InputError(
            f"The chat template of {processor.tokenizer.name_or_path} renders an answered turn unlike one that is to "
            "be answered: what is trained would not be what is asked. Set fit.base=... to a model that does not think."
        )
    if (num_places := asked.count(processor.image_token)) != len(places):
        raise InputError(
            f"The chat template of {processor.tokenizer.name_or_path} has {num_places} places for {len(places)} "
            "images. Set fit.base=... to a model whose template takes several."
        )
    return asked, whole.removeprefix(asked).rstrip()


def count_visual_tokens(paths: Set[str], folder: Path, processor: Any) -> dict[str, int]:
    """Path -> number of tokens that an image takes in the language model, by its size in the questions' table.

    Raises InputError for an image that the table does not have.
    """
    each = processor.image_processor
    columns = tables.columns(folder, StoredImage, ("path", "width", "height")) if paths else ()
    found = {
        path: int(each.get_number_of_image_patches(height, width)) // int(each.merge_size) ** 2
        for path, width, height in zip(*columns, strict=True)
        if path in paths
    }
    if missing := paths - found.keys():
        raise InputError(
            f"{folder} has no image {min(missing)}, which an example shows: they do not belong together. Run the flow."
        )
    return found


def read_image(image: SealedImage) -> Image.Image:
    """The whole image, as RGB. Raises InputError when it is not what was sealed any more."""
    try:
        return image.decode()
    except UnreadableImageError as error:
        raise InputError(
            f"Image {image} is not the one that its example was made for ({error}). Delete the questions artifact to "
            "have it made again."
        ) from error
