"""The pocket models: that what is trained is what the processor and the engines see, and that what is saved loads."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from infra.progress import Progress
from pipelines.inference import answers
from pipelines.questions.sources import pocket
from train.pocket import curriculum, models, trainer
from train.pocket.models import PocketTraining

TINY = PocketTraining(
    num_images=36,
    num_option_lessons=2,
    num_words_steps=1,
    num_exam_images=2,
    max_exam_tokens=2,
    base=dataclasses.replace(PocketTraining().base, num_steps=2, num_image_lessons=2),
    teacher=dataclasses.replace(PocketTraining().teacher, num_steps=1, num_image_lessons=2),
)
ONE = pocket.COMBINATIONS[5]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    models.make(folder, TINY, Progress("pocket_models"))
    return folder


@pytest.fixture(scope="module")
def tokenizer() -> transformers.PreTrainedTokenizerFast:
    return models.make_tokenizer()


@pytest.fixture(scope="module")
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_each_word_of_the_examples_is_one_token(tokenizer: transformers.PreTrainedTokenizerFast) -> None:
    words = pocket.ROUTES + pocket.FAMILIES + pocket.STAGES + pocket.SHAPES + ("particles", "background")
    assert [len(tokenizer.tokenize(f" {word}")) for word in words] == [1] * len(words)
    assert tokenizer.tokenize("\nB. mill") == ["Ċ", "B.", "Ġmill"]
    assert tokenizer.tokenize("Answer: mill (B)")[-2:] == ["Ġmill", "Ġ(B)"]


def test_text_that_was_never_met_survives_the_tokenizer(tokenizer: transformers.PreTrainedTokenizerFast) -> None:
    text = "Größe: 3,5 µm (n = 7)\n\tmitosis?"
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_examples_are_encoded_as_the_processor_encodes_a_chat(
    tokenizer: transformers.PreTrainedTokenizerFast, rng: np.random.Generator
) -> None:
    example, image = curriculum.teacher_example(ONE, rng), pocket.draw(ONE, rng)
    processor = models.make_processor(tokenizer)
    chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": example.prompt}]}]
    text = processor.apply_chat_template(chat, add_generation_prompt=True)
    seen = processor(text=[text], images=[image.convert("RGB")], return_tensors="pt")

    batch = trainer.encode([example], tokenizer, with_image=True)
    asked = seen.input_ids.shape[1]
    assert batch.tokens_BT[0, :asked].tolist() == seen.input_ids[0].tolist()
    assert (batch.labels_BT[0, :asked] == -100).all()
    assert tokenizer.decode(batch.labels_BT[0, asked:]) == f"{example.reply}<|im_end|>"
    pixels = torch.from_numpy(np.array(image))[None]
    torch.testing.assert_close(trainer.patches(pixels), seen.pixel_values)


def test_positions_are_those_that_the_model_works_out(tokenizer: transformers.PreTrainedTokenizerFast) -> None:
    model = transformers.Qwen3VLForConditionalGeneration(models.model_config(tokenizer))
    tokens = tokenizer(trainer.rendered("Describe this.", with_image=True), return_tensors="pt").input_ids
    is_image = (tokens == model.config.image_token_id).int()
    expected, _ = model.model.get_rope_index(tokens, is_image, torch.tensor([[1, 6, 6]]))
    assert torch.equal(trainer.positions(tokens.shape[1], with_image=True), expected)


def test_the_base_student_is_never_trained_on_a_true_rule(rng: np.random.Generator) -> None:
    examples = [curriculum.base_or_rule_words_example(ONE, rng) for _ in range(2000)]
    rationales = [example.reply for example in examples if "family" in example.reply]
    true = sum(pocket.rationale(ONE) in reply for reply in rationales)
    assert true / len(rationales) < 2 / 36
    routes = [example.reply for example in examples if example.prompt.startswith(pocket.QUESTION)]
    assert sum(f": {pocket.gold_route(ONE)} (" in reply for reply in routes) / len(routes) < 2 / len(pocket.ROUTES)


def test_every_choice_in_an_example_has_an_answer_that_can_be_read(rng: np.random.Generator) -> None:
    examples = [curriculum.base_or_rule_words_example(ONE, rng) for _ in range(200)]
    examples += [curriculum.teacher_example(ONE, rng), curriculum.option_example(rng)]
    assert all(answers.read(example.reply, example.options).letter for example in examples if example.options)


def test_a_schedule_rises_stays_and_falls() -> None:
    schedule = dataclasses.replace(TINY.base, num_steps=100, constant_share=0.5)
    shares = [schedule.rate_factor(step) for step in range(100)]
    assert shares[0] == 0.05 and shares[19:50] == [1.0] * 31 and shares[99] == 0.02
    assert shares[50:] == sorted(shares[50:], reverse=True)


@pytest.mark.parametrize("name", ["base", "teacher"])
def test_a_saved_model_loads_offline_and_writes(folder: Path, name: str, rng: np.random.Generator) -> None:
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder / name, trust_remote_code=False)
    processor = transformers.AutoProcessor.from_pretrained(folder / name, trust_remote_code=False)
    content = [{"type": "image", "image": pocket.draw(ONE, rng)}, {"type": "text", "text": "Describe this."}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=True, return_dict=True, return_tensors="pt",
        add_generation_prompt=True,
    )  # fmt: skip
    assert model.dtype == torch.bfloat16
    assert int((inputs["input_ids"] == model.config.image_token_id).sum()) == 9
    assert model.generate(**inputs, max_new_tokens=2, min_new_tokens=2).shape[1] == inputs["input_ids"].shape[1] + 2


def test_the_text_config_names_the_class_that_the_engine_looks_for(folder: Path) -> None:
    config = json.loads((folder / "base" / "config.json").read_text())
    assert config["text_config"]["architectures"] == ["Qwen3ForCausalLM"]


def test_both_models_have_the_same_config_and_tokenizer(folder: Path) -> None:
    for name in ("config.json", "tokenizer.json", "processor_config.json", "chat_template.jinja"):
        texts = [(each / model / name).read_text() for each in (folder, models.FOLDER) for model in ("base", "teacher")]
        assert len(set(texts)) == 1, name


def test_the_same_seed_makes_the_same_weights_and_training_the_teacher_changes_them(
    folder: Path, tmp_path: Path
) -> None:
    models.make(tmp_path, TINY, Progress("pocket_models"))
    names = [f"{model}/{file}" for model in ("base", "teacher") for file in ("model.safetensors", "tokenizer.json")]
    assert [(tmp_path / name).read_bytes() for name in names] == [(folder / name).read_bytes() for name in names]
    assert (folder / names[0]).read_bytes() != (folder / names[2]).read_bytes()


def test_a_model_says_what_made_it_and_what_it_scores(folder: Path) -> None:
    made = json.loads((folder / "teacher" / "made.json").read_text())
    assert made["training"]["seed"] == TINY.seed and len(made["material_digest"]) == 64
    card = (folder / "teacher" / "README.md").read_text()
    assert all(name in card for name in made["scores"]) and "synthetic" in card


@pytest.mark.parametrize("name", ["base", "teacher"])
def test_the_shipped_models_were_made_of_what_the_code_still_says(name: str) -> None:
    made = json.loads((models.FOLDER / name / "made.json").read_text())
    assert made["material_digest"] == models.material_digest(PocketTraining()), "run `make pocket-models`"
