"""A pocket model's name and scores -> its model card."""

import dataclasses
from collections.abc import Mapping

_CARD = """---
license: apache-2.0
library_name: transformers
pipeline_tag: image-text-to-text
tags: [qwen3_vl, synthetic, test-model]
---

# Preceptor pocket {name}

{purpose}

A `Qwen3VLForConditionalGeneration` of 1.66 million parameters in bfloat16: four language layers of width 128,
three vision layers of width 96, nine visual tokens for an image of 96 x 96 pixels, a vocabulary of 483 tokens.
It loads offline in transformers and in vLLM. It is made for trying the whole flow on a machine without a GPU.

## What it was taught

{teaching}

All images are synthetic: micrographs drawn by `pipelines/questions/sources/pocket.py`, with a rule of its own making
that needs three steps. No picture, text or weight of any other origin went in; the tokenizer was learned from the same
texts. It knows no other words, no other pictures and nothing of any real material, and must not be used on them.

## What it scores

Greedy unless a temperature is given; {num_asked} new drawings for each line, all 36 combinations of attributes as
often. Chance is 0.25 for a route. `exact` means the whole reply word for word: of an explained route, the gold
rationale in every step.

| asked for | right answer | exact | answer can be read |
|---|---|---|---|
{rows}

## How to make it again

`make pocket-models` (`python -m train.pocket.models`): from the seed alone, on one thread. `made.json` holds the
settings, the digest of the code, the versions and these scores. Licence: that of the repository it ships in.
"""

_PURPOSES = {
    "base": ("The untaught student: it sees, it chooses between options, and it knows no rule of the process routes."),
    "teacher": "The teacher: it explains in three steps which process route made a sample, and it errs now and then.",
}
_TEACHING = {
    "base": """Captions of what can be seen; multiple-choice questions about single attributes, answered at once or
after a caption; finding an option's letter in text alone; and the words of the rules (families, stages, routes) in
rationales whose conclusions were drawn at random. So it can write a rationale's words, and answers the route question
at chance.""",
    "teacher": """All that the base student was taught, then the true rationales of the route question, in full
fine-tuning and over all 36 combinations. Drawn at temperature 1 it errs more often than greedily, which gives
verification its work.""",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score:
    """Of `num_asked` replies, the shares with a readable answer, with the right one, and right word for word."""

    num_asked: int
    readable: float
    right: float
    exact: float


def card(name: str, scores: Mapping[str, Score]) -> str:
    """The model card, as Markdown, of `base` or `teacher`; raises KeyError for another name."""
    return _CARD.format(
        name=name,
        purpose=_PURPOSES[name],
        teaching=_TEACHING[name],
        num_asked=next(iter(scores.values())).num_asked,
        rows="\n".join(_row(asked, score) for asked, score in scores.items()),
    )


def _row(asked: str, score: Score) -> str:
    choice = asked != "caption"
    right, readable = (f"{score.right:.3f}", f"{score.readable:.3f}") if choice else ("", "")
    return f"| {asked} | {right} | {score.exact:.3f} | {readable} |"
