"""A LoRA adapter on the language model's linear layers: attached, counted, saved as a plain PEFT folder. [edge]"""

from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model

from train.disk import disk_errors
from train.layers import use_in_place_lora

# vLLM activates adapter keys of this form only. Its vision encoder takes no LoRA, so the adapter has none there.
LANGUAGE_LINEARS = r"model\.language_model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)"


def attach(
    model: torch.nn.Module, *, rank: int, alpha: int, seed: int, base: str, revision: str | None = None
) -> PeftModel:
    """The model with a fresh adapter, the same one for the same seed; all other weights are frozen.

    base, revision: how the adapter's own files name the model that it belongs to.
    """
    torch.manual_seed(seed)
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=LANGUAGE_LINEARS, task_type="CAUSAL_LM")
    use_in_place_lora(config)
    # In the base's precision: DeepSpeed keeps the float32 copy that the optimizer works on.
    adapted = get_peft_model(model, config, autocast_adapter_dtype=False)
    config.base_model_name_or_path, config.revision = base, revision
    return adapted


def trainable_names(model: torch.nn.Module) -> list[str]:
    """Names of the parameters that require a gradient."""
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def num_trainable(model: torch.nn.Module) -> int:
    """How many numbers the parameters that require a gradient hold."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def save(model: PeftModel, folder: Path) -> None:
    """Write adapter_config.json, adapter_model.safetensors and PEFT's own README.md.

    Raises ArtifactError on a full disk.
    """
    with disk_errors(folder):
        model.save_pretrained(str(folder), safe_serialization=True, save_embedding_layers=False)
        # safetensors lets only the owner read it; the server may run as another user.
        (folder / "adapter_model.safetensors").chmod(0o644)
