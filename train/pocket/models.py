"""A seed -> the pocket tokenizer, the base student and the teacher, trained from scratch on drawn micrographs. [edge]

Both models are Qwen3-VL in architecture and 1.6 million parameters in size, so that the whole flow runs on its real
engines without a download and without a GPU. `python -m train.pocket.models` makes the folders in `train/pocket`.
"""

import argparse
import dataclasses
import json
import platform
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from infra.digests import digest_bytes, digest_file, digest_json
from infra.progress import Progress
from pipelines.inference import answers, prompts
from pipelines.questions.sources import pocket
from train.pocket import curriculum, examination, trainer
from train.pocket.card import Score, card
from train.pocket.examination import Exam
from train.pocket.trainer import MERGE, NUM_PATCHES, PATCH, Drawings, Schedule, Trainer

FOLDER = Path(__file__).parent
CHAT_TEMPLATE = (
    "{%- for message in messages -%}{{ '<|im_start|>' + message.role + '\n' }}"
    "{%- if message.content is string -%}{{ message.content }}"
    "{%- else -%}{%- for part in message.content -%}"
    "{%- if part.type in ('image', 'image_url') -%}{{ '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{%- elif part.type == 'text' -%}{{ part.text }}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}{{ '<|im_end|>\n' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
)
# Qwen's way to cut text into pieces, but for an option's mark, which stays whole (`A.` before it, ` (A)` in an answer):
# so small a model learns to carry the letter over from the option to the answer when both stand beside the same word.
_PIECES = (
    r"(?<!\p{L})[A-Z]\.(?= )| ?\([A-Z]\)|"
    r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_CONTROL_TOKENS = ("<|im_start|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
_END, _PADDING = "<|im_end|>", "<|endoftext|>"
_MADE_BY = (
    *(Path(__file__), *sorted(Path(answers.__file__ or "").parent.glob("*.[pt]*"))),
    *(Path(module.__file__ or "") for module in (pocket, prompts, curriculum, trainer, examination)),
)


_BASE_SCHEDULE = Schedule(num_steps=800, num_image_lessons=32, matrix_rate=4e-3, other_rate=2e-3, constant_share=0.5)
_TEACHER_SCHEDULE = Schedule(
    num_steps=130, num_image_lessons=32, matrix_rate=1.2e-3, other_rate=6e-4, constant_share=0.0
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PocketTraining:
    """How the pocket models are made.

    num_images: drawings to train on. num_option_lessons: examples without an image in each batch of the base student.
    num_words_steps: the last steps of the base student, in which half of the examples have the words of the rules with
    random values. num_exam_images: drawings of the examination. max_exam_tokens: of a reply there. `made.json` of the
    shipped models records these names.
    """

    seed: int = 20
    num_images: int = 4000
    num_option_lessons: int = 20
    num_words_steps: int = 200
    base: Schedule = _BASE_SCHEDULE
    teacher: Schedule = _TEACHER_SCHEDULE
    num_exam_images: int = 360
    max_exam_tokens: int = 48


def main(arguments: Sequence[str] | None = None) -> None:
    """Make both models; about eight minutes on one core."""
    parser = argparse.ArgumentParser(prog="python -m train.pocket.models", description=main.__doc__)
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder for base/ and teacher/ (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=PocketTraining.seed, help="default: %(default)s")
    chosen = parser.parse_args(arguments)
    make(chosen.out, PocketTraining(seed=chosen.seed), Progress("pocket_models"))


def make(folder: Path, training: PocketTraining, progress: Progress) -> None:
    """Train both models and write them to `base/` and `teacher/` below the folder.

    The same seed, versions and kind of processor give the same weights: all work is on one thread.
    """
    torch.set_num_threads(1)
    rng = np.random.default_rng(training.seed)
    drawings = Drawings.of_all_combinations(training.num_images, rng)
    exam = Exam(Drawings.of_all_combinations(training.num_exam_images, rng), training.max_exam_tokens)
    make_base(folder / "base", training, drawings, exam, rng, progress)
    make_teacher(folder / "teacher", folder / "base", training, drawings, exam, progress)


def make_base(
    folder: Path, training: PocketTraining, drawings: Drawings, exam: Exam, rng: np.random.Generator, progress: Progress
) -> None:
    """Train the base student from random weights: to see, to choose and to name a letter; then the words of the rules,
    with random values."""
    torch.manual_seed(training.seed)
    tokenizer = make_tokenizer()
    model = transformers.Qwen3VLForConditionalGeneration(model_config(tokenizer))
    base_trainer = Trainer(model, tokenizer, drawings, rng, training.base)
    num_steps = training.base.num_steps
    for step in range(num_steps):
        with_rule_words = step >= num_steps - training.num_words_steps
        make_example = curriculum.base_or_rule_words_example if with_rule_words else curriculum.base_example
        loss = base_trainer.step(make_example, training.num_option_lessons)
        progress(step + 1, num_steps, "base_steps", loss=f"{loss:.3f}")
    save(folder, model, tokenizer)
    describe(folder, exam.score_base(load(folder), tokenizer), training)


def make_teacher(
    folder: Path, base: Path, training: PocketTraining, drawings: Drawings, exam: Exam, progress: Progress
) -> None:
    """Train the teacher from the finished base student, on gold rationales of all combinations. It stops early, so that
    the teacher makes some mistakes."""
    torch.manual_seed(training.seed)
    tokenizer = make_tokenizer()
    model = load(base)
    teacher_trainer = Trainer(model, tokenizer, drawings, np.random.default_rng([training.seed, 1]), training.teacher)
    for step in range(training.teacher.num_steps):
        loss = teacher_trainer.step(curriculum.teacher_example, 0)
        progress(step + 1, training.teacher.num_steps, "teacher_steps", loss=f"{loss:.3f}")
    save(folder, model, tokenizer)
    describe(folder, exam.score_teacher(load(folder), tokenizer), training)


def make_tokenizer() -> transformers.PreTrainedTokenizerFast:
    """Byte-level BPE in which each word of the examples is one token; other text becomes shorter pieces or bytes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe_trainer = trainers.BpeTrainer(vocab_size=1024, show_progress=False, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(curriculum.tokenizer_corpus(), bpe_trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=_END,
        pad_token=_PADDING,
        additional_special_tokens=list(_CONTROL_TOKENS),
        model_max_length=1024,
    )


def make_processor(tokenizer: transformers.PreTrainedTokenizerFast) -> transformers.Qwen3VLProcessor:
    """The processor that turns a 96 x 96 image into 9 visual tokens, and shrinks whatever is larger."""
    sides = {"patch_size": PATCH, "merge_size": MERGE, "temporal_patch_size": 2}
    grey = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    size = {"shortest_edge": (PATCH * MERGE) ** 2, "longest_edge": pocket.IMAGE_SIZE**2}
    return transformers.Qwen3VLProcessor(
        image_processor=transformers.Qwen2VLImageProcessor(size=size, **sides, **grey),
        tokenizer=tokenizer,
        video_processor=transformers.Qwen3VLVideoProcessor(size=size, **sides, **grey),
        chat_template=CHAT_TEMPLATE,
    )


def model_config(tokenizer: transformers.PreTrainedTokenizerFast) -> transformers.Qwen3VLConfig:
    """A Qwen3-VL of 1.6 million parameters. Head size 32 is the least that vLLM's CPU attention takes."""
    token = tokenizer.convert_tokens_to_ids
    return transformers.Qwen3VLConfig(
        architectures=["Qwen3VLForConditionalGeneration"],
        tie_word_embeddings=True,
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        text_config={
            "architectures": ["Qwen3ForCausalLM"],  # vLLM looks it up here, and fails without
            "vocab_size": len(tokenizer),
            "hidden_size": 128,
            "intermediate_size": 384,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 32,
            "max_position_embeddings": 1024,
            "initializer_range": 0.05,
            "tie_word_embeddings": True,
            "eos_token_id": token(_END),
            "pad_token_id": token(_PADDING),
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [6, 5, 5],
                "mrope_interleaved": True,
            },
        },
        vision_config={
            "depth": 3,
            "hidden_size": 96,
            "intermediate_size": 256,
            "num_heads": 3,
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": 2,
            "out_hidden_size": 128,
            "num_position_embeddings": NUM_PATCHES**2,
            "deepstack_visual_indexes": [1],
            "initializer_range": 0.05,
        },
    )


def save(
    folder: Path, model: transformers.Qwen3VLForConditionalGeneration, tokenizer: transformers.PreTrainedTokenizerFast
) -> None:
    """The model in bfloat16, and all that loads it offline."""
    weights = {name: value.to(torch.bfloat16) for name, value in model.state_dict().items()}
    copy = transformers.Qwen3VLForConditionalGeneration(model_config(tokenizer)).to(torch.bfloat16)
    copy.load_state_dict(weights)
    copy.generation_config = transformers.GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    copy.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # made private by default, and meant to be shared
    make_processor(tokenizer).save_pretrained(folder)


def load(folder: Path) -> transformers.Qwen3VLForConditionalGeneration:
    """A saved model, to compute with in float32 on its rounded weights: what was saved is what is examined."""
    kind = transformers.Qwen3VLForConditionalGeneration
    return kind.from_pretrained(folder, dtype=torch.float32, trust_remote_code=False)


def describe(folder: Path, scores: dict[str, Score], training: PocketTraining) -> None:
    """A saved model's card, and what it was made with."""
    made = {"scores": {name: dataclasses.asdict(each) for name, each in scores.items()}, **origin(training)}
    (folder / "made.json").write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(card(folder.name, scores), encoding="utf-8")


def origin(training: PocketTraining) -> dict[str, object]:
    """What a model was made with: the settings, digests, and the versions that decide the arithmetic.

    code_digest changes with every edit of the code; material_digest only when a model made anew would be another one.
    """
    return {
        "training": dataclasses.asdict(training),
        "material_digest": material_digest(training),
        "code_digest": digest_json({path.name: digest_file(path) for path in _MADE_BY}),
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }


def material_digest(training: PocketTraining) -> str:
    """Digest of everything that training starts from: settings, tokenizer, architecture, first drawings and examples.

    Its keys are part of the digest in the shipped models' made.json.
    """
    rng = np.random.default_rng(training.seed)
    drawings = Drawings.of_all_combinations(len(pocket.COMBINATIONS), rng)
    makers = (curriculum.base_example, curriculum.rule_words_example, curriculum.teacher_example)
    examples = [make_example(each, rng) for each in drawings.attributes for make_example in makers]
    tokenizer = make_tokenizer()
    architecture = {**model_config(tokenizer).to_dict(), "transformers_version": ""}
    return digest_json(
        {
            "training": dataclasses.asdict(training),
            "tokenizer": tokenizer.backend_tokenizer.to_str(),
            "architecture": architecture,
            "drawings": digest_bytes(drawings.images_NHW.numpy().tobytes()),
            "lessons": [*examples, curriculum.option_example(rng)],
        }
    )


if __name__ == "__main__":
    main()
