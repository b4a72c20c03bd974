"""Faster layers put in the place of PEFT's and Transformers' own, with the same weights and results. [edge]

Shapes: R rows (all leading dimensions together), P patches, C channels, T frames, H and W pixels of a patch.
"""

from typing import Any

import torch
from peft import LoraConfig
from peft.tuners import lora
from torch.nn import functional
from transformers import Qwen3VLForConditionalGeneration
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextRMSNorm


class InPlaceLoraLinear(lora.Linear):
    """PEFT's LoRA layer with fewer passes over its output.

    The scaling is applied at the adapter's rank, not at the output's width, and the product with lora_B is added in
    place. Takes one active adapter; merged or disabled ones go PEFT's way.
    """

    def forward(self, x: torch.Tensor, *arguments: Any, **named: Any) -> torch.Tensor:
        if self.disable_adapters or self.merged:
            return super().forward(x, *arguments, **named)
        (name,) = self.active_adapters
        rows = x.flatten(0, -2)
        scaled = self.lora_A[name](rows) * self.scaling[name]
        return self.base_layer(rows).addmm_(scaled, self.lora_B[name].weight.T).view(*x.shape[:-1], -1)


def use_in_place_lora(config: LoraConfig) -> None:
    """Make PEFT wrap linear layers in InPlaceLoraLinear. PEFT has no public way to name a layer class."""
    config._register_custom_module({torch.nn.Linear: InPlaceLoraLinear})


def use_fused_norms(model: Qwen3VLForConditionalGeneration, kind: type[torch.nn.RMSNorm] = torch.nn.RMSNorm) -> None:
    """Replace the language model's RMS norms by torch's, with the same weights.

    Torch's is one kernel on a GPU and keeps only its input for the backward pass; Transformers' is seven kernels and
    keeps copies in float32.
    """
    language_model = model.model.language_model
    for name, norm in list(language_model.named_modules()):
        if isinstance(norm, Qwen3VLTextRMSNorm):
            fused = kind(norm.weight.shape, eps=norm.variance_epsilon, device="meta")
            fused.weight = norm.weight
            language_model.set_submodule(name, fused)


class PatchProjection(torch.nn.Conv3d):
    """A convolution whose kernel covers its whole input, computed as the one matrix product that it amounts to."""

    def forward(self, patches_PCTHW: torch.Tensor) -> torch.Tensor:
        return functional.linear(patches_PCTHW.flatten(1), self.weight.flatten(1), self.bias)


def use_matmul_patch_embedding(model: Qwen3VLForConditionalGeneration) -> None:
    """Embed image patches by a matrix product, with the same weights: the general convolution kernel is slower."""
    embed = model.model.visual.patch_embed
    conv = embed.proj
    embed.proj = PatchProjection(
        conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, device="meta", dtype=conv.weight.dtype
    )
    embed.proj.weight, embed.proj.bias = conv.weight, conv.bias
