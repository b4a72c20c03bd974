"""Small records and artifacts for tests of this folder."""

import zipfile

from infra import manifest
from infra.manifest import Artifact, Tally
from pipelines import images, tables
from pipelines.records import Caption, Prediction, Question, Rationale, Verdict

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
        "fate": "explained",
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
        "fate": "accepted",
        "reason": "accepted",
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
        "question_id": "q1",
        "source": "test",
        "file": "",
        "model": "m",
        "arm": "zero_shot",
        "condition": "real",
        "stratum": "seen",
        "gold": "B",
        "text": "",
        "letter": letter,
        "finish_reason": "stop",
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


def put_questions(run_dir, asked, pictures, captions=None, **tally) -> Artifact:
    """Seal questions as their stage does: pictures (path in the artifact -> image) in zips, captions beside them."""

    def write(draft):
        tables.write(draft, Question, asked)
        if captions:
            tables.write(draft, Caption, [Caption(question_id=i, text=text) for i, text in captions.items()])
        for path, picture in pictures.items():
            archive = draft / path.rpartition("/")[0]
            archive.parent.mkdir(parents=True, exist_ok=True)
            with zipfile.ZipFile(archive, "a") as opened:
                opened.writestr(path.rpartition("/")[2], images.png(picture))

    return put(run_dir, "questions", write, **tally)
