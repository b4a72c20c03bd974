"""A teacher without a model, and questions for it."""

import dataclasses
import json

from PIL import Image

from infra.digests import digest_bytes
from pipelines.inference import ledger
from pipelines.inference.ledger import Attempt, Ledger
from pipelines.inference.worker import InferenceJob
from pipelines.recipes import pocket
from pipelines.teaching.config import TeachConfig
from pipelines.teaching.requests import inference, request_set
from tests.pipelines.fixtures import put_questions, question, showing


def config(**changes) -> TeachConfig:
    return dataclasses.replace(pocket().teach, **({"num_rationales": 1, "grounding_share": 0.0} | changes))


def attempt(request_id: str, **changes) -> Attempt:
    fields = {
        "id": request_id,
        "status": "answered",
        "seed": 1,
        "letter": "B",
        "text": "It is round.\nAnswer: cast (B)",
        "finish_reason": "stop",
        "num_output_tokens": 20,
    }
    return Attempt(**(fields | changes))


def many(num: int, **changes):
    """Questions that differ in their image, which is also what they lend to each other."""
    paths = [f"images/0.zip/{n}.png" for n in range(num)]
    return [
        showing(question(id=f"q{n}", images=(path,), **changes), {path: picture(path)}) for n, path in enumerate(paths)
    ]


def picture(path):
    """A small image of a colour of its own for each path."""
    return Image.new("RGB", (4, 4), f"#{digest_bytes(path.encode())[:6]}")


def put_many(run_dir, asked, *, without=()):
    """Seal them, each with its image, but for the images of the questions in `without`."""
    pictures = {q.images[0]: picture(q.images[0]) for q in asked if q.id not in without}
    return put_questions(run_dir, asked, pictures)


def write(folder, attempts, name="e-000"):
    """Write attempts down as an engine does."""
    folder.mkdir(parents=True, exist_ok=True)
    writer = ledger.Writer(folder / f"{name}.jsonl")
    for each in attempts:
        writer.add(each)
    writer.close()


def own(settings):
    """How a teacher without a model is asked by these settings."""
    return inference(dataclasses.replace(settings, endpoint="http://nowhere/v1", teacher="t", top_logprobs=0))


def prepare(tmp_path, asked, settings, attempts=()):
    """Questions, a ledger with these attempts, and the plan of what is left; a worker's job, the plan, the requests."""
    artifact = put_many(tmp_path / "run", asked)
    folder = ledger.folder_of(tmp_path / "ledger", own(settings))
    write(folder, attempts)
    workspace = tmp_path / "draft"
    workspace.mkdir(exist_ok=True)
    asking = request_set(settings, own(settings), artifact.path)
    plan = asking.write_plan(Ledger(folder), workspace / "plan.arrow")
    return InferenceJob(config=own(settings), images=artifact.path, ledger=folder, plan=plan.path), plan, asking


def requests(asking):
    """Everything that is asked, flat."""
    return [request for chunk in asking.chunks() for _, each in chunk for request in each]


def lines(folder):
    return [json.loads(line) for path in sorted(folder.glob("*.jsonl")) for line in path.read_bytes().splitlines()]
