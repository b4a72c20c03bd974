"""A random Qwen3-VL of a few thousand parameters, its processor, and examples with images for it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from infra import journal
from infra.digests import digest_bytes
from pipelines.images.decoding import png
from pipelines.records import TrainingExample
from tests.pipelines.fixtures import put_images
from train import attention
from train.layers import use_fused_norms, use_matmul_patch_embedding
from train.recipes import FitConfig

torch.set_num_threads(1)  # on a busy machine, threads that wait for one another cost more than these models do

SPECIAL = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    *("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"),
)
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' }}"
    "{% for part in message.content %}{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part.text }}{% endif %}{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def _tokenizer() -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, *alphabet, "ĊĊ"])}
    bytes_only = Tokenizer(models.BPE(vocab=vocabulary, merges=[("Ċ", "Ċ")]))
    bytes_only.add_special_tokens(list(SPECIAL))
    bytes_only.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_only.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=bytes_only,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=[token for token in SPECIAL if token not in {"<|im_end|>", "<|endoftext|>"}],
    )


@pytest.fixture(scope="session")
def processor():
    vision = {"patch_size": 8, "merge_size": 2, "size": {"shortest_edge": 16 * 16, "longest_edge": 64 * 64}}
    return Qwen3VLProcessor(
        Qwen2VLImageProcessor(**vision), _tokenizer(), Qwen3VLVideoProcessor(**vision), chat_template=TEMPLATE
    )


@pytest.fixture
def model(processor):
    """As the student is loaded: its language model attends within the examples of a pack."""
    model = tiny(processor, {"text_config": attention.NAME, "vision_config": "sdpa"})
    use_fused_norms(model)
    use_matmul_patch_embedding(model)
    return model


def tiny(processor, attn_implementation):
    """The same random weights every time."""
    token = processor.tokenizer.convert_tokens_to_ids
    torch.manual_seed(3)
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": len(processor.tokenizer),
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 16,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [4, 2, 2],
                "mrope_interleaved": True,
            },
        },
        vision_config={
            "depth": 2,
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_heads": 2,
            "patch_size": 8,
            "out_hidden_size": 16,
            "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0],
        },
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=True,
    )
    return Qwen3VLForConditionalGeneration._from_config(config, attn_implementation=attn_implementation).eval()


def _pictures():
    """Three images of different sizes, which take 4, 6 and 1 visual tokens."""
    rng = np.random.default_rng(0)
    drawn = [Image.fromarray(rng.integers(0, 255, size, dtype=np.uint8)) for size in [(32, 32), (32, 48), (16, 16)]]
    return {f"images/0.zip/{number}.png": picture for number, picture in enumerate(drawn)}


PICTURES = _pictures()
PATHS = list(PICTURES)
DIGESTS = [digest_bytes(png(picture)) for picture in PICTURES.values()]


@pytest.fixture
def images(tmp_path) -> Path:
    """The folder of sealed questions that has the three images."""
    put_images(tmp_path, PICTURES)
    return tmp_path


def example(
    number: int,
    target: str = "Answer: mill (A)",
    prompt: str = "Which?\nA. mill",
    images: tuple[int, ...] = (),
    weight: float = 1.0,
    split: str = "train",
) -> TrainingExample:
    """An example about one of the three images, or about several of them."""
    shown = images or (number,)
    return TrainingExample(
        question_id=str(number),
        split=split,
        rationale_id=f"r{number}",
        weight=weight,
        arm="answer_only",
        images=tuple(PATHS[each % 3] for each in shown),
        image_digests=tuple(DIGESTS[each % 3] for each in shown),
        prompt=prompt,
        target=target,
    )


def config(**changes) -> FitConfig:
    settings = {
        "base": "base",
        "learning_rate": 1e-2,
        "warmup_share": 0.0,
        "batch_size": 4,
        "num_steps": 3,
        "max_length": 200,
        "tokens_per_pack": 200,
        "precision": "fp32",
        "num_workers": 2,
        "cpus_per_worker": 1,
        "gpus_per_worker": 0,
        "image_cache_gib": 0.1,
    }
    return FitConfig(**(settings | changes))


@pytest.fixture(autouse=True, scope="package")
def nothing_is_recorded():
    """No stage of these tests starts the process that brings journals into MLflow: it takes seconds each time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(journal.DRIVER_VARIABLE, "1")
        yield
