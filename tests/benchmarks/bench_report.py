"""Reports on generated answers: every table filled, to look at; and the size of PMC-VQA, for seconds and memory.

`python -m tests.benchmarks.bench_report FOLDER [--questions N] [--entries all|many|demo] [--sets N]` writes the run
into FOLDER, makes its report in a process of its own, and prints its seconds, its peak memory, its size and its path.
"""

import argparse
import dataclasses
import io
import itertools
import random
import resource
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageDraw

from infra import manifest, runner
from infra.digests import digest_bytes, digest_json
from infra.manifest import Tally
from infra.progress import Progress
from pipelines import recipes
from pipelines.examination import plan as plans
from pipelines.records import LETTERS, Prediction, Question, StoredImage, TrainingExample, Verdict, tables
from pipelines.records.entries import PREFILLS, Entry
from pipelines.report.config import KnownLabelNoise, ReportConfig
from tests.pipelines.fixtures import prediction, question, verdict

ALL = (
    "zero_shot+circular/real",
    "zero_shot/blank",
    "zero_shot/shuffled",
    "zero_shot+rationale/real",
    "zero_shot+5shot/real",
    "answer_only/real",
    "answer_only/blank",
    "answer_only/shuffled",
    "rationale_then_answer/real",
    "rationale_then_answer/blank",
    "rationale_then_answer/shuffled",
    "rationale_then_answer/patch_shuffled",
    "rationale_then_answer/mirrored",
    "rationale_then_answer/gold_hidden",
    "rationale_then_answer+prefilled/real",
    "teacher/real",
)
MANY = (
    *(
        f"{asked}/{condition}"
        for asked in ("zero_shot", "zero_shot+rationale", "zero_shot+matcha", "answer_only", "rationale_then_answer")
        for condition in ("real", "blank", "shuffled", "absent", "patch_shuffled", "black")
    ),
    "teacher/real",
    "teacher/blank",
)
TOPICS = ("Phase Analysis", "Defect Type Classification", "Grain/Pore Size Classification", "XRD Pattern Analysis")
SKILL = {"zero_shot": 0.27, "answer_only": 0.5, "rationale_then_answer": 0.62, "teacher": 0.85}
HOSTILE = "Which </script><img src=x onerror=alert(1)> phase is \u2028 shown here? " + "\u00e9\u6f22" * 4
REASONING = "The image shows round bright regions in a dark matrix. Their edges are sharp, and pores lie between them. "


def write(folder: Path, num_questions: int, entries: tuple[str, ...], num_sets: int, side: int = 96) -> None:
    """A run up to its examination."""
    with manifest.draft(folder / "questions") as draft:
        images = _images(draft, max(4, min(2000, num_questions // 5)), side)
        asked = _questions(num_questions, num_sets, images)
        tables.write(draft, Question, asked)
        _seal(draft, folder / "questions", rows={"read": len(asked), "questions": len(asked)})
    for name, kind, rows in (
        ("verdicts", Verdict, [verdict(question_id=asked[-1].id, text=HOSTILE, body="")]),
        ("examples/rationale_then_answer", TrainingExample, []),
    ):
        with manifest.draft(folder / name) as draft:
            tables.write(draft, kind, rows)
            _seal(draft, folder / name)
    for name in ("rationales", "adapters/rationale_then_answer"):
        with manifest.draft(folder / name) as draft:
            (draft / "file.txt").write_text("nothing")
            _seal(draft, folder / name)
    with manifest.draft(folder / "examination") as draft:
        plans.seal(plans.default_plan(entries), draft)
        with tables.writer(draft, Prediction) as add:
            for each in _predictions(asked[:-1], entries):
                add(each)
        settings = {"plan": list(entries), "seed": 0, "max_tokens": 1024, "repeat_share": 0.05, "final_line": True}
        _seal(draft, folder / "examination", settings)


def _seal(draft: Path, place: Path, config: dict[str, object] | None = None, **tally: dict[str, int]) -> None:
    made_from = {"stage": "s", "contract": 1, "config": config or {}, "inputs": {}, "materials": {}, "paths": {}}
    counted = Tally(rows={"n": 1}) if not tally else Tally(**tally)
    manifest.seal(draft, place, stage="s", made_from=made_from, tally=counted, seconds=1.0)


def _images(draft: Path, count: int, side: int) -> list[tuple[str, str]]:
    """Path and digest of each."""
    found, stored = [], []
    (draft / "images").mkdir()
    rng = random.Random(0)
    with zipfile.ZipFile(draft / "images/00000.zip", "w") as opened:
        for number in range(count):
            picture = Image.effect_noise((side // 4, side // 4), 40).resize((side, side)).convert("RGB")
            drawn = ImageDraw.Draw(picture)
            for _ in range(6):
                x, y, size = (rng.randrange(1, side) for _ in range(3))
                drawn.ellipse((x, y, x + size // 3, y + size // 3), fill=tuple(rng.randrange(256) for _ in range(3)))
            written = io.BytesIO()
            picture.save(written, "JPEG", quality=90)
            data, path = written.getvalue(), f"images/00000.zip/{number}.jpg"
            opened.writestr(f"{number}.jpg", data)
            digest = digest_bytes(data)
            found.append((path, digest))
            about = {"path": path, "name": f"{number}.jpg", "crop": "", "source_digest": digest, "digest": digest}
            stored.append(
                StoredImage(**about, pixel_digest="", perceptual_hash=b"", width=side, height=side, changes=())
            )
    tables.write(draft, StoredImage, stored)
    return found


def _questions(count: int, num_sets: int, images: list[tuple[str, str]]) -> list[Question]:
    """The last one teaches."""
    found = []
    for number in range(count + 1):
        path, digest = images[number % len(images)]
        about = {"article": f"a{number // 6}", "figure": f"f{number // 2}", "gold": LETTERS[number * 7 % 4]}
        found.append(
            question(
                id=digest_json(number),
                source="PMC-VQA",
                file=f"test_{number % num_sets}.csv",
                row=number,
                split="test" if number < count else "train",
                stratum=("seen", "unseen")[number % 2],
                topic=TOPICS[number % 3 + number % 2],
                images=(path,),
                image_digests=(digest,),
                text=HOSTILE if number % 9 == 0 else f"Which process route made specimen {number}?",
                options=("milled", "cast from the melt", "pressed", "<b>die cast</b>"),
                **about,
            )
        )
    return found


def _predictions(asked: list[Question], entries: tuple[str, ...]) -> Iterator[Prediction]:
    rng = random.Random(1)
    for named in map(Entry.parse, entries):
        seeds = 2 if named.arm == "answer_only" else 1
        for seed, question_ in itertools.product(range(seeds), asked):
            yield from _answers(question_, named, seed, rng)


def _answers(asked: Question, named: Entry, seed: int, rng: random.Random) -> Iterator[Prediction]:
    shows = named.condition in ("real", "mirrored")
    skill = SKILL[named.arm] if shows else 0.28 + 0.05 * (named.arm != "zero_shot")
    gold = LETTERS.index(asked.gold)
    for rotation in range(4 if named.circular else 1):
        for beginning in PREFILLS if named.prefilled else ("",):
            for repeat in range(2 if rng.random() < 0.05 and not (rotation or beginning) else 1):
                place = LETTERS[(gold - rotation) % 4]
                letter = place if rng.random() < skill else rng.choice("ABCC")
                missing = rng.random() < (0.02 if shows else 0.12)
                text = f"{REASONING * (3 if named.prompt.wants_reasoning else 0)}Answer: this ({letter})"
                yield prediction(
                    None if missing else letter,
                    question_id=asked.id,
                    source=asked.source,
                    file=asked.file,
                    model=f"student-{named.arm}-{seed}" if seed else f"student-{named.arm}",
                    arm=named.arm,
                    seed=seed,
                    prompt=named.prompt,
                    num_shots=named.num_shots,
                    condition=named.condition,
                    rotation=rotation,
                    repeat=repeat,
                    prefill=beginning,
                    mistake=rng.choice("ABCD") if beginning == "mistake" else None,
                    gold=place,
                    text="I cannot see the image </script>." if missing else text,
                    missing=rng.choice(["refusal", "no_answer", "truncated"]) if missing else None,
                    lenient_letter=letter,
                    text_letter=rng.choice("ABCD") if rng.random() < 0.02 else None,
                )


def report(folder: Path) -> None:
    """Make the report of a run, and print what that took."""
    arms = {"arms": ("rationale_then_answer",)}
    noise = (KnownLabelNoise(file="test_0.csv", share=0.34, source="an audit"),)
    config = dataclasses.replace(ReportConfig(**arms), label_noise=noise, title="Preceptor, generated answers")
    started = time.monotonic()
    made = runner.carry_out(config, folder, Progress("report"), afresh=True)["report"]
    seconds, peak = time.monotonic() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    sizes = {path.name: path.stat().st_size for path in made.path.rglob("*") if path.is_file()}
    whole = sum(sizes.values()) / 2**20
    print(f"{seconds:.1f} s, at most {peak:.0f} MiB of memory, {whole:.1f} MiB in {len(sizes)} files")
    print(f"index.html {sizes['index.html'] / 2**20:.2f} MiB, {len(made.tally['metrics'])} metrics; {made.path}")


def main(arguments: list[str] | None = None) -> None:
    """Write a run and its report."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.bench_report", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--questions", type=int, default=300)
    parser.add_argument("--entries", choices=("all", "many", "demo"), default="all")
    parser.add_argument("--sets", type=int, default=1)
    parser.add_argument("--side", type=int, default=96, help="of an image, in pixels")
    parser.add_argument("--report", action="store_true", help="of the run that is there")
    given = parser.parse_args(arguments)
    if given.report:
        return report(given.folder)
    entries = {"all": ALL, "many": MANY, "demo": recipes.PLAN}[given.entries]
    started = time.monotonic()
    write(given.folder, given.questions, entries, given.sets, given.side)
    print(f"written in {time.monotonic() - started:.1f} s", flush=True)
    again = [sys.executable, "-m", "tests.benchmarks.bench_report", str(given.folder), "--report"]
    subprocess.run(again, check=True)
    return None


if __name__ == "__main__":
    main()
