"""Example -> tokens: the rendered chat, whose last tokens, the target, are supervised."""

import dataclasses
import unicodedata
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import islice, repeat
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
from train.job import IN_ANOTHER_ARM, MARKUP, TOO_LONG

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
    unusable: Mapping[str, str] | None = None,
) -> tuple[list[Encoded], dict[str, int]]:
    """The examples as tokens, in order, and how many were left out by reason. No example is ever cut.

    folder: the questions artifact. No image is opened: their sizes are in its table. max_length: tokens; a question of
    which one example is longer is left out with all of its examples. top_logprobs: rationale_id -> the teacher's top
    logprobs. unusable: question id -> why it is left out whatever these examples are. Raises InputError for an image
    that the table does not have, or for a chat template that renders an answered turn differently from the prompt that
    generation starts with.
    """
    usable: list[tuple[str, Encoded]] = []
    reasons = dict(unusable or {})
    for example, tokens, reason in _tokenized(examples, folder, processor, max_length):
        if tokens is None:
            reasons[example.question_id] = reason
            continue
        ids = array("i", [*_expanded(tokens.prompt_ids, tokens.num_visual, processor.image_token_id)])
        ids.extend(tokens.target_ids)
        topk = distillation.teacher_topk(tokens.target_ids, example.rationale_id, top_logprobs or {})
        made = Encoded(sealed.of(folder, example), ids, len(tokens.target_ids), example.weight, topk)
        usable.append((example.question_id, made))
    left_out = Counter(reasons[each.question_id] for each in examples if each.question_id in reasons)
    return [made for question_id, made in usable if question_id not in reasons], dict(sorted(left_out.items()))


def unusable_questions(
    examples: Iterable[TrainingExample], folder: Path, processor: Any, max_length: int
) -> dict[str, str]:
    """Question id -> why no arm learns it, of the questions of which one of these examples cannot be trained on.

    examples: of another arm than the one that is fitted. folder, max_length, errors: as in `encode`. Only those are
    tokenized that are not short enough by the number of their bytes.
    """
    num_visual = count_visual_tokens(folder, processor)

    @cache
    def template_bytes(num_images: int) -> int:
        return sum(len(text.encode()) for text in render(_blank(num_images), processor))

    def is_short(example: TrainingExample) -> bool:
        """Whether the example has no more tokens than allowed whatever the tokenizer makes of its text."""
        visual = sum(num_visual.get(image, max_length) for image in example.images)
        text = most_tokens(example.prompt) + most_tokens(example.target)
        return template_bytes(len(example.images)) + visual + text <= max_length

    special = processor.tokenizer.all_special_tokens
    unsure = (each for each in examples if _has_markup(each, special) or not is_short(each))
    measured = _tokenized(unsure, folder, processor, max_length)
    return {example.question_id: f"{reason}{IN_ANOTHER_ARM}" for example, tokens, reason in measured if tokens is None}


def most_tokens(text: str) -> int:
    """No tokenizer of bytes, or with bytes to fall back on, makes more tokens of a text: each stands for one byte at
    least of the text in the normal form that the tokenizer has, if any, and the composed forms are not longer."""
    if text.isascii():
        return len(text)
    forms = (text, unicodedata.normalize("NFD", text), unicodedata.normalize("NFKD", text))
    return max(len(form.encode("utf-8", "surrogatepass")) for form in forms)


def _blank(num_images: int) -> TrainingExample:
    """An example of which only the chat template's own text is rendered."""
    blank = dict.fromkeys(("question_id", "split", "rationale_id", "arm", "prompt", "target"), "")
    return TrainingExample(weight=0.0, images=("",) * num_images, image_digests=("",) * num_images, **blank)


def _has_markup(example: TrainingExample, special: Iterable[str]) -> bool:
    """Whether a token of the chat format stands in the example's text."""
    return any(token in example.prompt + example.target for token in special)


@dataclasses.dataclass(frozen=True, slots=True)
class _Tokens:
    """An example's prompt with one token for each image, the numbers of visual tokens of these, and its target."""

    prompt_ids: list[int]
    num_visual: list[int]
    target_ids: list[int]

    def __len__(self) -> int:
        return len(self.prompt_ids) - len(self.num_visual) + sum(self.num_visual) + len(self.target_ids)


def _tokenized(
    examples: Iterable[TrainingExample], folder: Path, processor: Any, max_length: int
) -> Iterator[tuple[TrainingExample, _Tokens | None, str]]:
    """Each example with its tokens, or None and the reason why it cannot be trained on; in order.

    Prompt and target are tokenized separately, so that no token spans both. Many examples are tokenized in one call,
    which the tokenizer spreads over the cores.
    """
    num_visual = count_visual_tokens(folder, processor)
    special = processor.tokenizer.all_special_tokens
    stream = iter(examples)
    while chunk := list(islice(stream, _EXAMPLES_PER_CALL)):
        plain = [not _has_markup(each, special) for each in chunk]
        texts = [
            text for each, is_plain in zip(chunk, plain, strict=True) if is_plain for text in render(each, processor)
        ]
        ids = iter(processor.tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else ())
        for example, is_plain in zip(chunk, plain, strict=True):
            if not is_plain:
                yield example, None, MARKUP
                continue
            if missing := [image for image in example.images if image not in num_visual]:
                raise InputError(
                    f"{folder} has no image {missing[0]}, which an example shows: they do not belong together. "
                    "Run the flow."
                )
            tokens = _Tokens(next(ids), [num_visual[image] for image in example.images], next(ids))
            yield (example, tokens, "") if len(tokens) <= max_length else (example, None, TOO_LONG)


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


def count_visual_tokens(folder: Path, processor: Any) -> dict[str, int]:
    """Image path -> number of visual tokens in the language model, from the images' sizes in the questions' table."""
    each = processor.image_processor

    @cache
    def count(width: int, height: int) -> int:
        return int(each.get_number_of_image_patches(height, width)) // int(each.merge_size) ** 2

    columns = tables.columns(folder, StoredImage, ("path", "width", "height"))
    return {path: count(width, height) for path, width, height in zip(*columns, strict=True)}


def read_image(image: SealedImage) -> Image.Image:
    """The decoded image, as RGB. Raises InputError when its bytes have changed since the questions were sealed."""
    try:
        return image.decode()
    except UnreadableImageError as error:
        raise InputError(
            f"Image {image} is not the one that its example was made for ({error}). Delete the questions artifact to "
            "have it made again."
        ) from error
