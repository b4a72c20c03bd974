"""Example -> tokens: the rendered chat, whose last tokens, the target, are supervised."""

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
from train.distillation import TeacherTopK

TOO_LONG = "too_long"
MARKUP = "chat_markup"  # the text holds a token of the chat format itself, and would break out of its turn
_EXAMPLES_PER_CALL = 1024  # of the tokenizer


@dataclasses.dataclass(frozen=True, slots=True)
class Encoded:
    """An example as tokens, with one token for each visual feature of its images.

    num_targets: how many of the last tokens are supervised. weight: how much the loss of each of them counts.
    teacher_topk: the teacher's most likely tokens at the first of them, where they are known.
    """

    images: tuple[SealedImage, ...]
    input_ids: "array[int]"
    num_targets: int
    weight: float = 1.0
    teacher_topk: TeacherTopK | None = dataclasses.field(default=None, compare=False)

    @property
    def num_topk_targets(self) -> int:
        """How many supervised tokens have a teacher's top-k."""
        return 0 if self.teacher_topk is None else len(self.teacher_topk.ids_PK)


def encode(
    examples: Sequence[TrainingExample],
    folder: Path,
    processor: Any,
    max_length: int,
    top_logprobs: Mapping[str, TopTokens] | None = None,
) -> tuple[list[Encoded], dict[str, int]]:
    """The examples as tokens, in order, and how many were left out by reason. No example is ever cut.

    folder: the questions artifact. No image is opened: their sizes are in its table. max_length: tokens; a longer
    example is left out. top_logprobs: rationale_id -> the teacher's top logprobs. Raises InputError for an image that
    the table does not have, or for a chat template that renders an answered turn differently from the prompt that
    generation starts with.
    """
    num_visual = count_visual_tokens({image for example in examples for image in example.images}, folder, processor)
    special = processor.tokenizer.all_special_tokens
    plain = [each for each in examples if not any(token in each.prompt + each.target for token in special)]
    reasons = {TOO_LONG: 0, MARKUP: len(examples) - len(plain)}
    encoded = []
    for start in range(0, len(plain), _EXAMPLES_PER_CALL):
        for example, prompt_ids, target_ids in _tokenized(plain[start : start + _EXAMPLES_PER_CALL], processor):
            nums = [num_visual[image] for image in example.images]
            ids = array("i", [*_expanded(prompt_ids, nums, processor.image_token_id), *target_ids])
            if len(ids) > max_length:
                reasons[TOO_LONG] += 1
                continue
            topk = distillation.teacher_topk(target_ids, example.rationale_id, top_logprobs or {})
            encoded.append(Encoded(sealed.of(folder, example), ids, len(target_ids), example.weight, topk))
    return encoded, {reason: count for reason, count in reasons.items() if count}


def _tokenized(
    examples: Sequence[TrainingExample], processor: Any
) -> Iterator[tuple[TrainingExample, list[int], list[int]]]:
    """Each example with the token ids of its prompt, one token for each image, and those of its target.

    Prompt and target are tokenized separately, so that no token spans both. All examples are tokenized in one call,
    which the tokenizer spreads over the cores.
    """
    texts = [text for example in examples for text in render(example, processor)]
    ids = processor.tokenizer(texts, add_special_tokens=False)["input_ids"]
    return zip(examples, ids[::2], ids[1::2], strict=True)


def _expanded(prompt_ids: Sequence[int], num_visual_tokens: Sequence[int], image_token: int) -> Iterator[int]:
    """The tokens with each image token repeated once per visual token. Repeating them in the text instead, before
    tokenizing, takes longer than everything else here."""
    nums = iter(num_visual_tokens)
    for token in prompt_ids:
        yield from repeat(token, next(nums) if token == image_token else 1)


def render(example: TrainingExample, processor: Any) -> tuple[str, str]:
    """The prompt as the chat template renders it, and the completion: the target and the token that ends the turn.

    Raises InputError for a template that does not render an answered turn as the prompt followed by the target, or
    that has another number of image placeholders than the example has images.
    """
    places = [{"type": "image"}] * len(example.images)
    user = {"role": "user", "content": [*places, {"type": "text", "text": example.prompt}]}
    assistant = {"role": "assistant", "content": [{"type": "text", "text": example.target}]}
    prompt = str(processor.apply_chat_template([user], tokenize=False, add_generation_prompt=True))
    whole = str(processor.apply_chat_template([user, assistant], tokenize=False))
    if not whole.startswith(prompt + example.target):
        raise InputError(
            f"The chat template of {processor.tokenizer.name_or_path} renders an answered turn differently "
            "from the prompt of one to be answered, so training would not match inference. Set "
            "fit.base=... to a model that does not think."
        )
    if (num_places := prompt.count(processor.image_token)) != len(places):
        raise InputError(
            f"The chat template of {processor.tokenizer.name_or_path} has {num_places} places for {len(places)} "
            "images. Set fit.base=... to a model whose template takes several."
        )
    return prompt, whole.removeprefix(prompt).rstrip()


def count_visual_tokens(paths: Set[str], folder: Path, processor: Any) -> dict[str, int]:
    """Image path -> number of visual tokens in the language model, from the image's size in the questions' table.

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
    """The decoded image, as RGB. Raises InputError when its bytes have changed since the questions were sealed."""
    try:
        return image.decode()
    except UnreadableImageError as error:
        raise InputError(
            f"Image {image} is not the one that its example was made for ({error}). Delete the questions artifact to "
            "have it made again."
        ) from error
