"""TRL's SFTTrainer on the examples of a run: with its default settings, or grouped by length.

`python -m tests.benchmarks.train_baselines {plain|grouped} RECIPE_FILE:FUNCTION RUN_DIR` prints one JSON object. Model,
adapter, examples, loss mask, precision, batches, optimizer and learning rates are those of the stage; `plain` also has
its order.
"""

import json
import resource
import sys
import time
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, Features, Image, List, Value
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

from infra import recipes
from pipelines.records import TrainingExample, tables
from train import adapter, student, zero
from train.encoding import encode
from train.packing import shuffled_epochs
from train.recipes import FitConfig

MICRO_BATCH_SIZE = 4


def rows_of(config: FitConfig, run_dir: Path, processor: Any) -> list[dict[str, Any]]:
    """The examples as TRL takes them, images as files."""
    examples = tables.read(run_dir / "examples/answer_only", TrainingExample)
    encoded, reasons = encode(examples, run_dir / "questions", processor, config.max_length)
    assert not reasons
    shown = run_dir / "shown"
    shown.mkdir(exist_ok=True)
    rows = []
    for example, tokens in zip(examples, encoded, strict=True):
        paths = [shown / f"{example.question_id}.png"]
        for path, image in zip(paths, tokens.images, strict=True):
            path.write_bytes(image.read())
        user = [{"type": "image"}, {"type": "text", "text": example.prompt}]
        rows.append(
            {
                "images": [str(path) for path in paths],
                "prompt": json.dumps([{"role": "user", "content": user}]),
                "completion": json.dumps(
                    [{"role": "assistant", "content": [{"type": "text", "text": example.target}]}]
                ),
                "length": len(tokens.input_ids),
            }
        )
    return rows


def dataset_of(rows: list[dict[str, Any]]) -> Dataset:
    """A dataset that decodes images on access."""
    part = {"type": Value("string"), "text": Value("string")}
    messages = List({"role": Value("string"), "content": List(part)})
    features = Features({"images": List(Image()), "prompt": messages, "completion": messages, "length": Value("int64")})
    columns = {name: [row[name] for row in rows] for name in ("images", "length")}
    for name in ("prompt", "completion"):
        columns[name] = [
            [
                {
                    "role": message["role"],
                    "content": [{"type": each["type"], "text": each.get("text")} for each in message["content"]],
                }
                for message in json.loads(row[name])
            ]
            for row in rows
        ]
    return Dataset.from_dict(columns, features=features)


class Clock(TrainerCallback):
    """Seconds and loss of each step, the set-up not included."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.losses: list[float] = []
        self._since = 0.0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._since = time.monotonic()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        now = time.monotonic()
        self.seconds.append(round(now - self._since, 4))
        self._since = now

    def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
        if "loss" in logs:
            self.losses.append(round(float(logs["loss"]), 5))


def main(arguments: list[str]) -> None:
    """Fit, and print the measurements as JSON."""
    kind, recipe, run_dir = arguments
    config: FitConfig = recipes.resolve(recipe, ["train"])["fit"]
    model, processor = student.load(config.base, config.precision)
    model.set_attn_implementation("sdpa")
    rows = rows_of(config, Path(run_dir), processor)
    order = list(islice(shuffled_epochs(len(rows), config.seed), config.num_steps * config.batch_size))
    grouped = kind == "grouped"
    dataset = dataset_of(rows if grouped else [rows[index] for index in order])
    adapted = adapter.attach(model, rank=config.lora_rank, alpha=config.lora_alpha, seed=config.seed, base=config.base)
    trainable = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=config.learning_rate, weight_decay=0.0)
    rates = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: zero.learning_rate(config, min(step + 1, config.num_steps)) / config.learning_rate
    )
    clock = Clock()
    trainer = SFTTrainer(
        model=adapted,
        args=SFTConfig(
            output_dir=f"{run_dir}/trl",
            per_device_train_batch_size=MICRO_BATCH_SIZE,
            gradient_accumulation_steps=config.batch_size // MICRO_BATCH_SIZE,
            num_train_epochs=config.num_steps * config.batch_size // len(rows) if grouped else 1,
            max_grad_norm=config.max_grad_norm,
            max_length=None,
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            train_sampling_strategy="group_by_length" if grouped else "sequential",
            length_column_name="length",
            remove_unused_columns=False,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=dataset,
        processing_class=processor,
        optimizers=(optimizer, rates),
        callbacks=[clock],
    )
    # Otherwise each micro batch would count the same, whatever its number of tokens, which is another objective.
    trainer.model_accepts_loss_kwargs = True
    useful: list[int] = []  # tokens of each micro batch, padding not counted
    counted = {"all": 0, "targets": 0}
    collate = trainer.data_collator

    def counting(features: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = collate(features)
        # The line break after the token that ends the turn is not supervised in our fits either.
        last = batch["attention_mask"].sum(dim=1) - 1
        batch["labels"][torch.arange(len(last)), last] = -100
        useful.append(int(batch["attention_mask"].sum()))
        counted["all"] += batch["attention_mask"].numel()
        counted["targets"] += int((batch["labels"] != -100).sum())
        return dict(batch)

    trainer.data_collator = counting
    trainer.train()
    per_step = config.batch_size // MICRO_BATCH_SIZE
    measured = {
        "threads": torch.get_num_threads(),
        "tokens": [sum(useful[first : first + per_step]) for first in range(0, len(useful), per_step)],
        "seconds": clock.seconds,
        "padding": round(1 - sum(useful) / counted["all"], 4),
        "memory_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20), 3),
        "targets": counted["targets"],
        "losses": clock.losses,
    }
    print(json.dumps(measured), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
