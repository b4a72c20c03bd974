"""Layer sizes of published models, so that a dry run needs no hub. Source: each model's own config.json.

Used only for a model that is neither a folder nor in the hub's cache: its own config.json comes first.
"""

from typing import Any

_VISION = {
    "depth": 24,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_heads": 16,
    "patch_size": 16,
    "deepstack_visual_indexes": [5, 11, 17],
}
_ROTARY = {
    "rope_type": "default",
    "rope_theta": 5_000_000.0,
    "mrope_section": [24, 20, 20],
    "mrope_interleaved": True,
}
_TEXT = {"vocab_size": 151_936, "num_key_value_heads": 8, "head_dim": 128, "rope_parameters": _ROTARY}


def _shape(hidden_size: int, intermediate_size: int, num_layers: int, num_heads: int) -> dict[str, Any]:
    text = {
        "hidden_size": hidden_size,
        "intermediate_size": intermediate_size,
        "num_hidden_layers": num_layers,
        "num_attention_heads": num_heads,
    }
    return {
        "text_config": _TEXT | text,
        "vision_config": _VISION | {"out_hidden_size": hidden_size},
        "tie_word_embeddings": True,
    }


MODEL_SHAPES = {
    "Qwen/Qwen3-VL-2B-Instruct": _shape(2048, 6144, 28, 16),
    "Qwen/Qwen3-VL-4B-Instruct": _shape(2560, 9728, 36, 32),
}
