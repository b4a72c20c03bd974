"""A taught pocket model -> what it can do, as numbers for its card: asked by generation, on new drawings. [edge]"""

from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast, Qwen3VLForConditionalGeneration

from pipelines.inference.answers import read_letter
from train.pocket import curriculum
from train.pocket.card import Score
from train.pocket.curriculum import Lesson
from train.pocket.teaching import Drawings, MakeLesson, image_inputs, rendered


class Exam:
    """Drawings that a model has not seen, and what it is asked about them."""

    def __init__(self, drawings: Drawings, max_tokens: int) -> None:
        self._drawings = drawings
        self._max_tokens = max_tokens

    def of_base(self, model: Qwen3VLForConditionalGeneration, tokenizer: PreTrainedTokenizerFast) -> dict[str, Score]:
        """What the base student sees, and that it knows no rule."""
        lessons = {
            "caption": curriculum.caption_lesson,
            "attribute": curriculum.attribute_lesson,
            "route": curriculum.gold_route_lesson,
            "route, explained": curriculum.teacher_lesson,
        }
        return {name: self.score(model, tokenizer, make_lesson) for name, make_lesson in lessons.items()}

    def of_teacher(
        self, model: Qwen3VLForConditionalGeneration, tokenizer: PreTrainedTokenizerFast
    ) -> dict[str, Score]:
        """The teacher's answers: the likeliest ones, and drawn ones."""
        return {
            f"route, explained, temperature {temperature:g}": self.score(
                model, tokenizer, curriculum.teacher_lesson, temperature
            )
            for temperature in (0.0, 0.7, 1.0)
        }

    def score(
        self,
        model: Qwen3VLForConditionalGeneration,
        tokenizer: PreTrainedTokenizerFast,
        make_lesson: MakeLesson,
        temperature: float = 0.0,
    ) -> Score:
        """The model's score on one lesson for each drawing; every model gets the same questions."""
        rng = np.random.default_rng(0)
        lessons = [make_lesson(attributes, rng) for attributes in self._drawings.attributes]
        written = replies(model, tokenizer, lessons, self._drawings.images_NHW, self._max_tokens, temperature)
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
