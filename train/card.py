"""The adapter's README: what it is, the prompts it was trained with, and its licence terms."""

from infra.digests import digest_bytes
from pipelines.inference import prompts
from pipelines.records import Arm, Question, Split
from train.recipes import FitConfig

_PLACEHOLDER = Question(
    id="",
    source="",
    split=Split.TRAIN,
    images=(),
    image_digests=(),
    text="{question}",
    options=("{option}", "{option}"),
    gold="A",
)


def model_card(config: FitConfig, arm: str) -> str:
    """The README of one arm's adapter, as Markdown with the metadata header that model hubs read."""
    prompt = prompts.prompt(_PLACEHOLDER, Arm(arm))
    explain_section = (
        f"\nWith this prompt it writes only a rationale:\n\n```\n{prompts.explain_prompt(_PLACEHOLDER)}\n```\n"
    )
    revision = f" --revision {config.revision}" if config.revision else ""
    return f"""---
base_model: {config.base}
library_name: peft
pipeline_tag: image-text-to-text
tags: [lora, preceptor]
---

# {arm}: a LoRA adapter for {config.base}

It answers multiple-choice questions about images in the form of the arm `{arm}`. `peft` loads this
folder, and so does vLLM:

```
vllm serve {config.base}{revision} --enable-lora --max-lora-rank {config.lora_rank} --lora-modules {arm}=FOLDER
```

It was trained with this prompt (digest {digest_bytes(prompt.encode())[:12]}), after one or more images, with two or
more options:

```
{prompt}
```
{explain_section if arm == Arm.MULTI_TASK else ""}
Rank {config.lora_rank}, alpha {config.lora_alpha}, on the linear layers of the language model. {config.num_steps}
steps of {config.batch_size} examples at {config.learning_rate:g}, seed {config.seed}. `training.json` has the
loss at each step, and `manifest.json` the digests of all that it was made from.

Licence: an adapter derives from its base model and from the examples it was fitted on, and the terms of both hold for
it. It is made for research. It is no medical device, and what it writes is no advice.
"""
