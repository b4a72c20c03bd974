"""The adapter's README: what it is, the prompts and questions it was trained with, and its licence terms."""

from infra.digests import digest_bytes
from pipelines.inference import prompts
from pipelines.records import Arm, Question, Split
from train.job import HELD_OUT, IN_ANOTHER_ARM, MARKUP, NOT_REACHED, TOO_LONG, FitOutcome, Watched
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


# Why an example was not trained on, as a reader is told.
_LEFT_OUT = {
    TOO_LONG: "their question has one with more tokens than `fit.max_length`",
    MARKUP: "their question has one with a token of the chat format in its text",
    TOO_LONG + IN_ANOTHER_ARM: "another arm's example of their question has more tokens than `fit.max_length`",
    MARKUP + IN_ANOTHER_ARM: "another arm's example of their question has a token of the chat format in its text",
    HELD_OUT: "they were held out, to be watched",
    NOT_REACHED: "the fit ended before their turn came",
}
_WATCHED = {
    Watched.NOTHING: "No questions were held out.",
    Watched.VALIDATION: "Held out are the questions of the validation split, none of whose articles is trained on.",
    Watched.DRAWN: "Held out is a share of the questions, drawn as whole articles, figures and images.",
}


def _left_out(outcome: FitOutcome) -> str:
    """A line for each reason, with how many examples of the arm it concerns."""
    return "".join(f"- {count:,}: {_LEFT_OUT[reason]}.\n" for reason, count in outcome.reasons.items())


def model_card(config: FitConfig, arm: str, outcome: FitOutcome) -> str:
    """The README of one arm's adapter, as Markdown with the metadata header that model hubs read."""
    prompt = prompts.prompt(_PLACEHOLDER, Arm(arm))
    explain_section = (
        f"\nWith this prompt it writes only a rationale:\n\n```\n{prompts.explain_prompt(_PLACEHOLDER)}\n```\n"
    )
    others = ", ".join(f"`{other}`" for other in config.compared_arms)
    compared = f"What cannot be learnt in one of the arms {others} was left out here too. " if others else ""
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

It was trained on {outcome.num_trained_on:,} of {outcome.num_examples:,} examples. {_WATCHED[outcome.watched]}
{compared}{f"Left out are:{chr(10)}{chr(10)}{_left_out(outcome)}" if outcome.reasons else "None was left out."}
Licence: an adapter derives from its base model and from the examples it was fitted on, and the terms of both hold for
it. It is made for research. It is no medical device, and what it writes is no advice.
"""
