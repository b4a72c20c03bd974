"""A taught pocket model -> what it can do, as numbers for its card: asked by generation, on new drawings. [edge]"""

from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast, Qwen3VLForConditionalGeneration

from pipelines.answers import read_letter
from train.pocket_card import Score
from train.pocket_lessons import Lesson
from train.pocket_teaching import Drawings, MakeLesson, image_inputs, rendered


def score(
    model: Qwen3VLForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    drawings: Drawings,
    make_lesson: MakeLesson,
    max_tokens: int,
    temperature: float = 0.0,
) -> Score:
    """The model's score on one lesson for each drawing; the same drawings always get the same questions."""
    rng = np.random.default_rng(len(drawings.attributes))
    lessons = [make_lesson(attributes, rng) for attributes in drawings.attributes]
    written = replies(model, tokenizer, lessons, drawings.images_NHW, max_tokens, temperature)
    said = [read_letter(text, lesson.options) for text, lesson in zip(written, lessons, strict=True)]
    gold = [read_letter(lesson.reply, lesson.options) for lesson in lessons]
    return Score(
        num_asked=len(lessons),
        readable=_share(letter is not None for letter in said),
        right=_share(letter is not None and letter == wanted for letter, wanted in zip(said, gold, strict=True)),
        exact=_share(text == lesson.reply for text, lesson in zip(written, lessons, strict=True)),
    )


def replies(
    model: Qwen3VLForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    lessons: list[Lesson],
    images_NHW: torch.Tensor,
    max_tokens: int,
    temperature: float,
) -> list[str]:
    """What the model writes to each lesson's user beside its image; at temperature 0, the likeliest token each time."""
    prompts = [rendered(lesson.user, with_image=True) for lesson in lessons]
    batch = tokenizer(prompts, padding=True, padding_side="left", return_tensors="pt")
    sampling: dict[str, Any] = {"temperature": temperature, "top_k": 0, "do_sample": True} if temperature else {}
    written = model.generate(  # without gradients, of itself
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        mm_token_type_ids=(batch.input_ids == model.config.image_token_id).int(),
        **image_inputs(images_NHW),
        max_new_tokens=max_tokens,
        **sampling,
    )
    texts: list[str] = tokenizer.batch_decode(written[:, batch.input_ids.shape[1] :], skip_special_tokens=True)
    return texts


def _share(hits: Any) -> float:
    return round(float(np.mean(list(hits))), 4)
