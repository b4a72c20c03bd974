"""A fit against TRL's SFTTrainer, with its default settings and grouped by length, and the overhead of our loop.

`python -m tests.benchmarks.bench_train [REPETITIONS]` (`make bench-train`). All of them have the same random model with
the 2B's proportions, examples, precision, loss mask, optimizer, cores and threads, and, except for the grouped one, the
same batches. They run in turns, in alternating order. The first step is warm-up and is not counted. The rest of the
first epoch, in which our vision encoder runs on every image as TRL's does in every epoch, and the later epochs are
reported separately. Prints a table at the end, and writes build/bench/train.json and train.png.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import quantiles
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoTokenizer, Qwen3VLConfig, Qwen3VLForConditionalGeneration, Qwen3VLProcessor

from pipelines.records import TrainingExample, tables
from tests.benchmarks import paired
from tests.pipelines.fixtures import put, put_questions, question, showing
from train.model_shapes import MODEL_SHAPES
from train.recipes import POCKET_BASE, FitConfig, TrainRecipe

PROJECT = Path(__file__).parents[2]
FOLDER = PROJECT / "build/bench/train"
PEERS = PROJECT / "build/bench/trl"
RECIPE = f"{__file__}:recipe"
NUM_EXAMPLES, NUM_EPOCHS, BATCH_SIZE = 96, 4, 8
NUM_STEPS = NUM_EPOCHS * NUM_EXAMPLES // BATCH_SIZE
STEPS_PER_EPOCH = NUM_EXAMPLES // BATCH_SIZE
NUM_WARM_UP = 1
SMALLER = 8  # than the 2B, in width; layers are fewer by the factor below
FEWER = 7 / 3
VISUAL_TOKENS, TARGET_TOKENS, PROMPT_TOKENS = (60, 512), (20, 300), (40, 120)
PIXELS_PER_TOKEN = 32 * 32


def recipe() -> dict[str, Any]:
    """One worker that has the machine to itself."""
    fit = FitConfig(
        base=str(FOLDER / "base"),
        arms=("answer_only",),
        learning_rate=2e-3,
        batch_size=BATCH_SIZE,
        num_steps=NUM_STEPS,
        max_length=1024,
        tokens_per_pack=2048,
        precision="fp32",
        num_workers=1,
        cpus_per_worker=num_threads(),
        gpus_per_worker=0,
        checkpoint_every=1000,
        image_cache_gib=2.0,
    )
    return {"train": TrainRecipe(fit=fit)}


def prepare() -> Path:
    """A model, and examples on images, in a run folder."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    make_base(FOLDER / "base")
    run_dir = FOLDER / "runs" / "a"
    rng = np.random.default_rng(0)
    tokenizer = AutoTokenizer.from_pretrained(PROJECT / POCKET_BASE, trust_remote_code=False)
    vocabulary = [tokenizer.decode([token]) for token in range(len(tokenizer))]
    vocabulary = [token for token in vocabulary if token.strip().isalpha()]
    asked, pictures, examples = [], {}, []
    for number in range(NUM_EXAMPLES):
        width, height = shape_of(between(VISUAL_TOKENS, rng), rng)
        path = f"images/0.zip/{number}.png"
        pictures[path] = Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8))
        asked.append(question(id=str(number), images=(path,), image_digests=(f"{number:064}",)))
        prompt = text_of(between(PROMPT_TOKENS, rng), vocabulary, tokenizer, rng)
        target = text_of(between(TARGET_TOKENS, rng), vocabulary, tokenizer, rng)
        examples.append(
            TrainingExample(
                question_id=str(number),
                split="train",
                rationale_id=str(number),
                arm="answer_only",
                weight=1.0,
                images=(path,),
                image_digests=(f"{number:064}",),
                prompt=prompt,
                target=target,
            )
        )
    put_questions(run_dir, asked, pictures)
    examples = [showing(example, pictures) for example in examples]
    put(run_dir, "examples/answer_only", lambda draft: tables.write(draft, TrainingExample, examples))
    return run_dir


def between(bounds: tuple[int, int], rng: np.random.Generator) -> int:
    """A random number between the bounds, uniform in its logarithm, as lengths of texts roughly are."""
    low, high = np.log(bounds)
    return int(np.exp(rng.uniform(low, high)))


def shape_of(num_tokens: int, rng: np.random.Generator) -> tuple[int, int]:
    """Width and height in pixels of an image with about this number of visual tokens."""
    aspect = rng.uniform(0.7, 1.4)
    sides = np.sqrt(num_tokens * np.array([aspect, 1 / aspect]))
    width, height = (int(max(1, round(side))) * 32 for side in sides)
    return width, height


def text_of(num_tokens: int, vocabulary: list[str], tokenizer: Any, rng: np.random.Generator) -> str:
    """Random text of about this number of tokens, with Zipf's frequencies."""
    frequency = 1 / np.arange(1, len(vocabulary) + 1)
    drawn = rng.choice(vocabulary, size=num_tokens, p=frequency / frequency.sum())
    ids = tokenizer("".join(drawn))["input_ids"][:num_tokens]
    return str(tokenizer.decode(ids)).strip()


def make_base(folder: Path) -> None:
    """Random weights in the 2B's proportions of vision, layers and vocabulary, with the pocket model's tokenizer."""
    processor = Qwen3VLProcessor.from_pretrained(PROJECT / POCKET_BASE, trust_remote_code=False)
    low, high = (num * PIXELS_PER_TOKEN for num in VISUAL_TOKENS)
    processor.image_processor.size = {"shortest_edge": low // 4, "longest_edge": high * 2}
    pocket = Qwen3VLConfig.from_pretrained(PROJECT / POCKET_BASE, trust_remote_code=False)
    large = MODEL_SHAPES["Qwen/Qwen3-VL-2B-Instruct"]
    text = large["text_config"] | {
        "hidden_size": large["text_config"]["hidden_size"] // SMALLER,
        "intermediate_size": large["text_config"]["intermediate_size"] // SMALLER,
        "num_hidden_layers": round(large["text_config"]["num_hidden_layers"] / FEWER),
        "num_attention_heads": large["text_config"]["num_attention_heads"] // 2,
        "num_key_value_heads": large["text_config"]["num_key_value_heads"] // 2,
        "head_dim": 32,
        # The embedding has the same share of all weights as in the 2B.
        "vocab_size": round(large["text_config"]["vocab_size"] / SMALLER / FEWER),
        "rope_parameters": pocket.text_config.rope_parameters,
        "eos_token_id": pocket.text_config.eos_token_id,
        "pad_token_id": pocket.text_config.pad_token_id,
    }
    vision = large["vision_config"] | {
        "hidden_size": large["vision_config"]["hidden_size"] // SMALLER,
        "intermediate_size": large["vision_config"]["intermediate_size"] // SMALLER,
        "depth": round(large["vision_config"]["depth"] / FEWER),
        "num_heads": 4,
        "out_hidden_size": text["hidden_size"],
        "deepstack_visual_indexes": [2, 5, 7],
    }
    tokens = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    torch.manual_seed(0)
    config = Qwen3VLConfig(
        text_config=text,
        vision_config=vision,
        tie_word_embeddings=True,
        **{name: getattr(pocket, name) for name in tokens},
    )
    Qwen3VLForConditionalGeneration(config).save_pretrained(folder)
    processor.save_pretrained(folder)


def ours(run_dir: Path) -> dict[str, Any]:
    """The stage as a user runs it, from nothing."""
    for folder in ("checkpoints", "adapters"):
        shutil.rmtree(run_dir / folder, ignore_errors=True)
    run_module("train.fit", RECIPE, "--run-dir", str(run_dir))
    adapter = run_dir / "adapters/answer_only"
    steps = json.loads((adapter / "training.json").read_text())["steps"]
    # Like TRL's clock: from the begin of the first step to the end of the last, with everything between the steps.
    seconds = json.loads((adapter / "manifest.json").read_text())["tally"]["metrics"]["seconds_since_start"]
    between_s = (seconds - sum(step["seconds"] for step in steps)) / len(steps)
    return {
        **figures([step["num_tokens"] for step in steps], [step["seconds"] + between_s for step in steps]),
        "padding": 0.0,
        "memory_gib": round(max(step["memory_gib"] for step in steps), 3),
        "overhead_share": round(1 - sum(step["computing_s"] for step in steps) / seconds, 4),
        "losses": [round(step["loss"], 5) for step in steps],
    }


def figures(tokens: list[int], seconds: list[float]) -> dict[str, Any]:
    """Useful tokens per second in the parts of a fit, and the deciles of the single steps of the later epochs."""

    def speed(part: slice) -> float:
        return round(sum(tokens[part]) / sum(seconds[part]), 1)

    steady = slice(STEPS_PER_EPOCH, None)
    deciles = quantiles([a / b for a, b in zip(tokens[steady], seconds[steady], strict=True)], n=10)
    return {
        "useful_tokens": sum(tokens),
        "all_epochs": speed(slice(NUM_WARM_UP, None)),
        "first_epoch": speed(slice(NUM_WARM_UP, STEPS_PER_EPOCH)),
        "later_epochs": speed(steady),
        "warm_up_s": round(sum(seconds[:NUM_WARM_UP]), 2),
        "slow_steps": round(deciles[0], 1),
        "fast_steps": round(deciles[-1], 1),
    }


def trl(run_dir: Path, kind: str) -> dict[str, Any]:
    """TRL on the same examples."""
    run = json.loads(run_module("tests.benchmarks.train_baselines", kind, RECIPE, str(run_dir))[-1])
    assert run.pop("threads") == num_threads()
    return {**figures(run.pop("tokens"), run.pop("seconds")), **run}


def num_threads() -> int:
    """Threads of each system: the cores that this process may use."""
    return len(os.sched_getaffinity(0))


def run_module(*arguments: str) -> list[str]:
    """Run a module, and return the lines that it prints. Exits when it fails."""
    environment = os.environ | {"PYTHONPATH": f"{PROJECT}:{PEERS}", "OMP_NUM_THREADS": str(num_threads())}
    done = subprocess.run(
        [sys.executable, "-m", *arguments], cwd=PROJECT, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{arguments} failed: {(done.stdout + done.stderr)[-3000:]}")
    return done.stdout.splitlines()


def install_peers() -> None:
    """Install TRL into a folder of its own, because our environment does not need it."""
    if not PEERS.exists():
        pins = str(Path(__file__).parent / "trl.txt")
        subprocess.run(
            [sys.executable, "-m", "pip", "install", "-qq", "--no-deps", "--target", str(PEERS), "-r", pins], check=True
        )


def plot(runs: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """The loss curves of the first run of each."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.5), dpi=120)
    for (name, each), style in zip(runs.items(), ("-", "--", ":"), strict=True):
        axes.plot(range(1, len(each[0]["losses"]) + 1), each[0]["losses"], style, label=name)
    axes.set_xlabel("step")
    axes.set_ylabel("loss per supervised token")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path)


def main(repetitions: int) -> None:
    """Measure everything and print the table."""
    install_peers()
    run_dir = prepare()
    systems: dict[str, Callable[[], dict[str, Any]]] = {
        "Preceptor": lambda: ours(run_dir),
        "TRL": lambda: trl(run_dir, "plain"),
        "TRL grouped": lambda: trl(run_dir, "grouped"),
    }
    about = paired.machine()
    print(f"{paired.describe(about)}; {num_threads()} threads each, {NUM_STEPS} steps", flush=True)
    runs = paired.in_turns(systems, repetitions, show)
    mine, plain, grouped = runs.values()
    compared = {
        "all epochs, of TRL": paired.ratios(mine, plain, "all_epochs"),
        "all epochs, of TRL grouped": paired.ratios(mine, grouped, "all_epochs"),
        "later epochs, of TRL": paired.ratios(mine, plain, "later_epochs"),
        "later epochs, of TRL grouped": paired.ratios(mine, grouped, "later_epochs"),
        # Against all of TRL's epochs: each of them runs the vision encoder, like our first.
        "first epoch, of TRL": paired.ratios(mine, plain, "first_epoch", "all_epochs"),
        "first epoch, of TRL grouped": paired.ratios(mine, grouped, "first_epoch", "all_epochs"),
        "peak memory, of TRL": paired.ratios(mine, plain, "memory_gib"),
    }
    apart = [abs(a - b) for a, b in zip(mine[0]["losses"], plain[0]["losses"], strict=True)]
    result = {
        "machine": about,
        "threads": num_threads(),
        "ratios": compared,
        "losses_apart_at_most": round(max(apart), 5),
        "runs": runs,
    }
    (FOLDER.parent / "train.json").write_text(json.dumps(result, indent=2) + "\n")
    plot(runs, FOLDER.parent / "train.png")
    print_table(result)


def show(name: str, run: dict[str, Any]) -> None:
    """One run in a line."""
    shown = {figure: value for figure, value in run.items() if figure != "losses"}
    print(f"{name}: {shown}, last loss {run['losses'][-1]}", flush=True)


def print_table(result: dict[str, Any]) -> None:
    """Medians over the repetitions with their range, then the ratios of the runs of the same repetition."""
    columns = f"{'first epoch':>24}{'later epochs':>24}{'single steps':>20}{'padding':>9}{'memory':>11}"
    print(f"\n{'useful tokens/s':<16}{columns}")
    for name, runs in result["runs"].items():
        parts = [
            f"{paired.median(runs, part):.0f} ({paired.spread([run[part] for run in runs])})"
            for part in ("first_epoch", "later_epochs")
        ]
        steps = f"{paired.median(runs, 'slow_steps'):.0f} to {paired.median(runs, 'fast_steps'):.0f}"
        padding, memory = (paired.median(runs, figure) for figure in ("padding", "memory_gib"))
        print(f"{name:<16}{parts[0]:>24}{parts[1]:>24}{steps:>20}{padding:>9.3f}{memory:>7.2f} GiB")
    for line in paired.ratio_lines(result["ratios"]):
        print(line)
    print(f"overhead share {paired.median(result['runs']['Preceptor'], 'overhead_share')}")
    print(f"losses apart at most {result['losses_apart_at_most']}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
