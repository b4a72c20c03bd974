"""adapter_config.json -> what a LoRA adapter computes, or the setting that the engine would not serve correctly.

Of the settings that PEFT 0.21 writes, vLLM 0.29 reads r, lora_alpha, use_rslora, use_dora, bias and modules_to_save,
and ignores all others without a word. So each setting is either understood here, or changes nothing in what a fitted
adapter computes, or must be off.
"""

import json
import math
import re
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from infra.errors import InputError
from serve.adapters.untrusted_json import quoted, read_json

CONFIG_FILE = "adapter_config.json"
MAX_RANK = 512
_MAX_CONFIG_BYTES = 1_000_000
_MAX_MATCHING_S = 5.0  # starting the process takes a hundredth of it on an idle machine
_MATCHER = """
import json, re, resource, sys
resource.setrlimit(resource.RLIMIT_AS, (1 << 28, 1 << 28))
pattern, *names = json.load(sys.stdin)
json.dump([name for name in names if re.fullmatch(pattern, name)], sys.stdout)
"""
_LAYER = re.compile(r"\.layers\.(\d+)\.")

# A pattern that whole module names match, or a list of module names or the ends of them.
Selection = (
    Annotated[str, Field(min_length=1, max_length=10_000)] | Annotated[list[str], Field(min_length=1, max_length=4096)]
)

# How an adapter was made, or how PEFT loads it; none changes what it computes once it is fitted.
IRRELEVANT = frozenset(
    {
        "auto_mapping",  # which Python class the base was; the engine has its own
        "ensure_weight_tying",  # of saved modules and embeddings, which are refused
        "eva_config",  # how init_lora_weights = "eva" found its start
        "inference_mode",  # whether gradients are wanted
        "lora_dropout",  # while fitting alone
        "megatron_core",  # a module's name, used with megatron_config
        "peft_version",
        "qalora_group_size",  # used with use_qalora
        "revision",  # of the base, on its hub
        "task_type",  # which wrapper PEFT puts around the model
    }
)
# Settings that must be off, and why.
UNSERVED = {
    "alora_invocation_tokens": "the engine would apply it to all tokens",
    "alpha_pattern": "the engine scales all layers alike",
    "arrow_config": "the engine routes no experts of LoRA",
    "corda_config": "CorDA changes the base's weights, which the engine has as they were",
    "fan_in_fan_out": "no layer of the base stores its weight transposed",
    "kasa_config": "KaSA changes the base's weights, which the engine has as they were",
    "layer_replication": "the engine has each layer of the base once",
    "loftq_config": "LoftQ changes the base's weights, which the engine has as they were",
    "lora_bias": "the engine adds no bias to lora_B",
    "lora_ga_config": "LoRA-GA changes the base's weights, which the engine has as they were",
    "megatron_config": "the engine reads no layers of Megatron",
    "modules_to_save": "the engine serves no whole modules beside LoRA",
    "monteclora_config": "the engine draws no samples of an adapter",
    "rank_pattern": "the engine scales all layers by one rank",
    "target_parameters": "the engine adapts modules alone",
    "trainable_token_indices": "the engine serves the base's embeddings",
    "use_bdlora": "the engine knows no block-diagonal LoRA",
    "use_dora": "the engine does not serve DoRA",
    "use_qalora": "the engine does not serve QALoRA",
    "velora_config": "the engine does not know VeLoRA",
}


class AdapterConfig(BaseModel):
    """The settings that decide what an adapter computes and on which layers.

    init_lora_weights: only the starts that leave the base's weights as they are.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore", allow_inf_nan=False)

    peft_type: Literal["LORA"]
    r: int = Field(ge=1, le=MAX_RANK)
    lora_alpha: float = Field(ge=1e-3, le=1 << 16)
    use_rslora: bool = False
    target_modules: Selection
    exclude_modules: Selection | Annotated[list[str], Field(max_length=0)] | None = None
    layers_to_transform: int | Annotated[list[int], Field(max_length=4096)] | None = None
    layers_pattern: Literal["layers", ""] | Annotated[list[Literal["layers"]], Field(max_length=1)] | None = None
    bias: Literal["none"] = "none"
    init_lora_weights: bool | Literal["gaussian", "eva", "orthogonal", "mica"] = True
    base_model_name_or_path: str | None = None

    @property
    def scaling(self) -> float:
        """The factor of the product of an adapter's matrices, for PEFT and the engine alike."""
        return self.lora_alpha / (math.sqrt(self.r) if self.use_rslora else self.r)

    def targeted(self, modules: Collection[str]) -> set[str]:
        """Which of these modules PEFT would adapt; raises ValueError for a pattern that is wrong or takes too long."""
        targeted = _selected(self.target_modules, modules)
        if self.exclude_modules:
            targeted -= _selected(self.exclude_modules, targeted)
        if self.layers_to_transform is None or self.layers_to_transform == []:
            return targeted
        chosen = self.layers_to_transform
        layers = {chosen} if isinstance(chosen, int) else set(chosen)
        return {
            name
            for name in targeted
            if name in self.target_modules or ((layer := _LAYER.search(name)) and int(layer[1]) in layers)
        }


def read_config(folder: Path) -> AdapterConfig:
    """The settings of a PEFT folder; raises InputError naming the file, the setting and its value."""
    file = folder / CONFIG_FILE
    settings = read_json(file, _MAX_CONFIG_BYTES)
    for name, value in settings.items():
        if value and name not in AdapterConfig.model_fields and name not in IRRELEVANT:
            reason = UNSERVED.get(name, "what the engine makes of it is not known")
            raise InputError(f"{file} has {quoted(name)} = {quoted(value)}: {reason}. Fit the adapter without it.")
    try:
        return AdapterConfig.model_validate(settings)
    except ValidationError as error:
        raise InputError(f"{file} is not served: {_first(error, settings)}.") from None


def _first(error: ValidationError, settings: dict[str, Any]) -> str:
    """The first setting that is wrong, its value, and all reasons against it."""
    details = error.errors(include_url=False)
    name = str(details[0]["loc"][0])
    reasons = dict.fromkeys(str(detail["msg"]) for detail in details if detail["loc"][0] == name)
    value = f"{name} = {quoted(settings[name])}" if name in settings else name
    return f"{value} ({'; or '.join(reasons)})"


def _selected(selection: str | list[str], modules: Collection[str]) -> set[str]:
    if isinstance(selection, str):
        return _matching(selection, modules)
    ends = tuple(f".{name}" for name in selection)
    return {name for name in modules if f".{name}".endswith(ends)}


def _matching(pattern: str, modules: Collection[str]) -> set[str]:
    """Which names match as a whole. PEFT uses Python's `re`, where an untrusted pattern may take unlimited time and
    memory; only a process of its own can be stopped then.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _MATCHER],
            input=json.dumps([pattern, *modules]),
            capture_output=True,
            text=True,
            timeout=_MAX_MATCHING_S,
            check=True,
        )
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError):
        raise ValueError(f"the pattern {quoted(pattern)} is invalid, or takes too long") from None
    return set(json.loads(done.stdout))
