"""A LoRA adapter on the language model's linears: attached, all that learns, saved as a plain PEFT folder. [edge]"""

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners import lora
from safetensors import SafetensorError

from train.work import writing

# Keys of this shape are the ones that vLLM activates. Its vision tower takes no LoRA, so ours gets none.
LANGUAGE_LINEARS = r"model\.language_model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)"


class _Linear(lora.Linear):
    """PEFT's layer, in fewer passes over its output: what is scaled has the adapter's rank as its width, and the
    product with lora_B is added in place."""

    def forward(self, x: torch.Tensor, *arguments: Any, **named: Any) -> torch.Tensor:
        if self.disable_adapters or self.merged:
            return super().forward(x, *arguments, **named)
        (name,) = self.active_adapters
        rows = x.flatten(0, -2)
        scaled = self.lora_A[name](rows) * self.scaling[name]
        return self.base_layer(rows).addmm_(scaled, self.lora_B[name].weight.T).view(*x.shape[:-1], -1)


def attach(
    model: torch.nn.Module, *, rank: int, alpha: int, seed: int, base: str, revision: str | None = None
) -> PeftModel:
    """The model with a fresh adapter, the same one for the same seed; all else is frozen.

    base, revision: how the adapter's own files name the model that it belongs to.
    """
    torch.manual_seed(seed)
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=LANGUAGE_LINEARS, task_type="CAUSAL_LM")
    config._register_custom_module({torch.nn.Linear: _Linear})
    # In the base's precision: DeepSpeed keeps the copy in float32 that the optimizer works on.
    adapted = get_peft_model(model, config, autocast_adapter_dtype=False)
    config.base_model_name_or_path, config.revision = base, revision
    return adapted


def trainable_names(model: torch.nn.Module) -> list[str]:
    """Names of the parameters that learn."""
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def num_trainable(model: torch.nn.Module) -> int:
    """Number of numbers that learn."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def save(model: PeftModel, folder: Path, card: str) -> None:
    """Write adapter_config.json, adapter_model.safetensors and README.md. Raises ArtifactError on a full disk."""
    with writing(folder):
        try:
            model.save_pretrained(str(folder), safe_serialization=True, save_embedding_layers=False)
        except SafetensorError as error:
            raise OSError(str(error)) from error  # what a full disk is to safetensors
        (folder / "adapter_model.safetensors").chmod(0o644)  # made for its owner's eyes only, and served by others
        (folder / "README.md").write_text(card)
