"""Small records and artifacts for tests of this folder."""

import dataclasses
import zipfile

from infra import manifest
from infra.digests import digest_bytes
from infra.manifest import Artifact, Tally
from pipelines.images import decoding
from pipelines.images.sealed import SealedImage
from pipelines.records import Arm, Caption, Prediction, Question, Rationale, StoredImage, Verdict, tables
from pipelines.records.entries import OWN_PROMPT

OPTIONS = ("mill", "cast", "press", "die cast")


def question(**changes) -> Question:
    fields = {
        "id": "q1",
        "source": "test",
        "split": "train",
        "stratum": "seen",
        "images": ("images/00000.zip/a.png",),
        "image_digests": ("a" * 64,),
        "text": "Which process route made this sample?",
        "options": OPTIONS,
        "gold": "B",
    }
    return Question(**(fields | changes))


def rationale(text: str = "", **changes) -> Rationale:
    fields = {
        "id": "r1",
        "question_id": "q1",
        "condition": "real",
        "number": 0,
        "hinted": False,
        "status": "answered",
        "text": text,
        "thoughts": "",
        "finish_reason": "stop",
        "num_prompt_tokens": 40,
        "num_output_tokens": 20,
        "num_stray_tokens": 0,
        "mean_logprob": None,
        "min_logprob": None,
        "attempts": 1,
        "seed": 1,
        "teacher": "t",
        "teacher_digest": "d" * 64,
        "prompt_digest": "d" * 64,
        "sampling_digest": "d" * 64,
        "error": None,
    }
    return Rationale(**(fields | changes))


def verdict(**changes) -> Verdict:
    fields = {
        "rationale_id": "r1",
        "question_id": "q1",
        "status": "accepted",
        "reason": "accepted",
        "rule": None,
        "selected": True,
        "weight": 1.0,
        "letter": "B",
        "agreement": 1.0,
        "image_not_needed": None,
        "hinted": False,
        "text": "It is round.\nAnswer: cast (B)",
        "body": "It is round.",
    }
    return Verdict(**(fields | changes))


def prediction(letter: str | None, **changes) -> Prediction:
    fields = {
        "request_id": "r1",
        "question_id": "q1",
        "source": "test",
        "file": "",
        "model": "m",
        "arm": "zero_shot",
        "seed": 0,
        "prompt": OWN_PROMPT[Arm(changes.get("arm", "zero_shot"))],
        "condition": "real",
        "stratum": "seen",
        "gold": "B",
        "status": "answered",
        "text": "",
        "thoughts": "",
        "letter": letter,
        "read_as": "taught_line" if letter else None,
        "missing": None
        if letter
        else "no_answer"
        if changes.get("status", "answered") == "answered"
        else "failed_request",
        "text_letter": letter,
        "lenient_letter": letter,
        "finish_reason": "stop",
        "num_prompt_tokens": 40,
        "num_output_tokens": 3,
        "error": None,
    }
    return Prediction(**(fields | changes))


def put(run_dir, name, write, *, stage="s", inputs=(), **tally) -> Artifact:
    """Seal an artifact that a function writes. inputs: names of what it was made from, as it is there now."""
    with manifest.draft(run_dir / name) as draft:
        write(draft)
        read = {each: manifest.find(run_dir / each).digest for each in inputs}
        origin = {"stage": stage, "contract": 1, "config": {}, "inputs": read, "materials": {}, "paths": {}}
        counted = Tally(**({"rows": {"n": 1}} | tally))
        return manifest.seal(draft, run_dir / name, stage=stage, made_from=origin, tally=counted, seconds=1)


def showing(record, pictures):
    """The same question or example with the digests of its pictures, as far as they are there."""
    old = zip(record.images, record.image_digests, strict=True)
    new = [digest_bytes(decoding.png(pictures[path])) if path in pictures else digest for path, digest in old]
    return dataclasses.replace(record, image_digests=tuple(new))


def put_questions(run_dir, asked, pictures, captions=None, **tally) -> Artifact:
    """Seal questions as their stage does: pictures (path in the artifact -> image) in zips, captions beside them, and
    their digests in every question."""

    def write(draft):
        tables.write(draft, Question, [showing(each, pictures) for each in asked])
        put_images(draft, pictures)
        if captions:
            tables.write(draft, Caption, [Caption(question_id=i, text=text) for i, text in captions.items()])

    return put(run_dir, "questions", write, **tally)


def sealed(folder, *paths) -> list[SealedImage]:
    """Images of a questions artifact."""
    digests = {stored.path: stored.digest for stored in tables.read(folder, StoredImage)}
    return [SealedImage(folder / path, digests[path]) for path in paths]


def put_other_bytes(folder, path, data) -> None:
    """Put other bytes in the place of a sealed image's, or take it out where they are None."""
    shard = (folder / path).parent
    with zipfile.ZipFile(shard) as opened:
        members = {name: opened.read(name) for name in opened.namelist()}
    with zipfile.ZipFile(shard, "w") as opened:
        for name, content in (members | {(folder / path).name: data}).items():
            if content is not None:
                opened.writestr(name, content)


def put_images(folder, pictures) -> None:
    """Write pictures into their zips, and their table."""
    stored = []
    for path, picture in pictures.items():
        shard, _, name = path.rpartition("/")
        (folder / shard).parent.mkdir(parents=True, exist_ok=True)
        data = decoding.png(picture)
        with zipfile.ZipFile(folder / shard, "a") as opened:
            opened.writestr(name, data)
        stored.append(
            StoredImage(
                path=path,
                name=name,
                crop="",
                source_digest=digest_bytes(data),
                digest=digest_bytes(data),
                pixel_digest="",
                perceptual_hash=b"",
                width=picture.width,
                height=picture.height,
                changes=(),
            )
        )
    tables.write(folder, StoredImage, stored)
