"""A trained pocket model -> the scores of its card, by generation on new drawings. [edge]"""

from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast, Qwen3VLForConditionalGeneration

from pipelines.inference import answers
from train.pocket import curriculum
from train.pocket.card import Score
from train.pocket.curriculum import ChatExample
from train.pocket.trainer import Drawings, MakeExample, image_inputs, rendered


class Exam:
    """Drawings that no model was trained on, and the questions about them. max_tokens: of a reply."""

    def __init__(self, drawings: Drawings, max_tokens: int) -> None:
        self._drawings = drawings
        self._max_tokens = max_tokens

    def score_base(
        self, model: Qwen3VLForConditionalGeneration, tokenizer: PreTrainedTokenizerFast
    ) -> dict[str, Score]:
        """Scores that show that the base student sees, and knows no rule."""
        makers = {
            "caption": curriculum.caption_example,
            "attribute": curriculum.attribute_example,
            "route": curriculum.gold_route_example,
            "route, explained": curriculum.teacher_example,
        }
        return {name: self.score(model, tokenizer, make_example) for name, make_example in makers.items()}

    def score_teacher(
        self, model: Qwen3VLForConditionalGeneration, tokenizer: PreTrainedTokenizerFast
    ) -> dict[str, Score]:
        """Scores of the teacher's explained answers, greedy and sampled."""
        return {
            f"route, explained, temperature {temperature:g}": self.score(
                model, tokenizer, curriculum.teacher_example, temperature
            )
            for temperature in (0.0, 0.7, 1.0)
        }

    def score(
        self,
        model: Qwen3VLForConditionalGeneration,
        tokenizer: PreTrainedTokenizerFast,
        make_example: MakeExample,
        temperature: float = 0.0,
    ) -> Score:
        """The score on one example for each drawing. Every model gets the same ones."""
        rng = np.random.default_rng(0)
        examples = [make_example(attributes, rng) for attributes in self._drawings.attributes]
        written = replies(model, tokenizer, examples, self._drawings.images_NHW, self._max_tokens, temperature)
        letters = [answers.read(text, example.options).letter for text, example in zip(written, examples, strict=True)]
        gold = [answers.read(example.reply, example.options).letter for example in examples]
        return Score(
            num_asked=len(examples),
            readable=_share(letter is not None for letter in letters),
            right=_share(letter is not None and letter == wanted for letter, wanted in zip(letters, gold, strict=True)),
            exact=_share(text == example.reply for text, example in zip(written, examples, strict=True)),
        )


def replies(
    model: Qwen3VLForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    examples: list[ChatExample],
    images_NHW: torch.Tensor,
    max_tokens: int,
    temperature: float,
) -> list[str]:
    """The model's reply to each example's prompt and its image; greedy at temperature 0."""
    prompts = [rendered(example.prompt, with_image=True) for example in examples]
    batch = tokenizer(prompts, padding=True, padding_side="left", return_tensors="pt")
    sampling: dict[str, Any] = {"temperature": temperature, "top_k": 0, "do_sample": True} if temperature else {}
    written = model.generate(  # generate() itself turns gradients off
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
