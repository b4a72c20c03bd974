"""The engine is a stand-in here; the flow's own tests run the real one."""

import asyncio
import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from infra.errors import InputError
from infra.progress import Progress
from pipelines import tables, teacher
from pipelines.recipes import TeachConfig, pocket
from pipelines.records import Question, Rationale
from tests.pipelines.fixtures import put, put_questions, question

CONFIG = pocket().teach


class Engine:
    """Writes down what it is asked, and answers with the number of images."""

    def __init__(self) -> None:
        self.requests = []
        self.refusal = None
        self.tokenizer = SimpleNamespace(apply_chat_template=self._render)

    def _render(self, messages, add_generation_prompt, tokenize):
        (message,) = messages
        return "".join("<image>" if part["type"] == "image" else part["text"] for part in message["content"])

    async def generate(self, request, sampling, request_id):
        self.requests.append(request)
        if self.refusal:
            raise self.refusal
        text = f"{len(request['multi_modal_data']['image'])} images"
        output = SimpleNamespace(text=text, finish_reason="stop", token_ids=[1, 2])
        yield SimpleNamespace(outputs=[output], prompt_token_ids=[1, 2, 3])


@pytest.fixture
def engine(monkeypatch):
    made = Engine()
    monkeypatch.setattr(teacher, "start_engine", lambda model, config: made)
    return made


def batch_of(asked):
    """The columns in which an engine's actor is given a batch of questions."""
    from ray.data.block import BlockAccessor

    rows = teacher.pa.Table.from_pylist([teacher._request(each, CONFIG) for each in asked])
    return BlockAccessor.for_block(rows).to_batch_format("numpy")


@pytest.mark.parametrize("numbers", [[(0,), (1,)], [(0, 1), (1, 0)], [(0,), (0, 1, 1), (9, 0)]])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # vLLM's own, while it is imported
def test_each_request_has_its_images_in_order_and_a_missing_one_fails_its_row_alone(engine, tmp_path, numbers):
    pictures = {f"images/0.zip/{n}.png": Image.new("RGB", (4, 4), (n, n, n)) for n in range(3)}
    artifact = put_questions(tmp_path, [question()], pictures)
    asked = [question(id=str(own), images=tuple(f"images/0.zip/{n}.png" for n in own)) for own in numbers]
    actor = teacher.TeacherEngine(CONFIG, artifact.path)
    columns = asyncio.run(actor(batch_of(asked)))
    rationales = [
        Rationale.from_dict(dict(zip(columns, values, strict=True))) for values in zip(*columns.values(), strict=True)
    ]
    assert [r.question_id for r in rationales] == [q.id for q in asked]
    readable = [own for own in numbers if 9 not in own]
    shown = [[image.getpixel((0, 0))[0] for image in r["multi_modal_data"]["image"]] for r in engine.requests]
    assert sorted(shown) == sorted(map(list, readable))
    assert [r["prompt"].count("<image>") for r in engine.requests] == [len(each) for each in shown]
    for own, made in zip(numbers, rationales, strict=True):
        expected = ("", "missing_image") if 9 in own else (f"{len(own)} images", None)
        assert (made.text, made.error) == expected


@pytest.mark.parametrize("kind", ["VLLMValidationError", "ValueError"])
@pytest.mark.parametrize(
    ("said", "reason"),
    [("The prompt (length 900) is longer than 512", "prompt_too_long"), ("No.", "refused_by_engine")],
)
def test_a_request_that_the_engine_refuses_fails_its_row_alone(engine, tmp_path, kind, said, reason):
    import vllm.exceptions

    engine.refusal = getattr(vllm.exceptions, kind, ValueError)(said)
    artifact = put_questions(tmp_path, [question()], {question().images[0]: Image.new("RGB", (4, 4))})
    columns = asyncio.run(teacher.TeacherEngine(CONFIG, artifact.path)(batch_of([question(), question(id="q2")])))
    assert columns["error"] == [reason] * 2


def run(tmp_path, monkeypatch, asked, config: TeachConfig = CONFIG):
    """Run the stage with every rationale given at once; the settings that its engines would have started with."""
    started = []

    def explained(asked, config, folder):
        started.append(config)
        return [_said(each) for each in reversed(asked)]

    monkeypatch.setattr(teacher.cluster, "connect", lambda: None)
    monkeypatch.setattr(teacher.cluster, "require", lambda *_, **__: None)
    monkeypatch.setattr(teacher, "_explained", explained)
    questions = put(tmp_path, "questions", lambda d: tables.write(d, Question, asked))
    inputs, draft = {"questions": questions}, tmp_path / "draft"
    draft.mkdir()
    teacher.run(SimpleNamespace(config=config, inputs=inputs, draft=draft, progress=Progress("teach")))
    return started[0], tables.read(draft, Rationale)


def _said(asked):
    return teacher._failed({"question_id": asked.id, "seed": np.int64(1)}, "none")


@pytest.mark.parametrize(("allowed", "needed"), [(1, 3), (8, 8)])
def test_the_engine_takes_as_many_images_as_any_of_the_questions_has(tmp_path, monkeypatch, allowed, needed):
    engine = dataclasses.replace(CONFIG.engine, images_per_request=allowed)
    asked = [
        question(id="q1"),
        question(id="q2", images=("a", "b", "c"), image_digests=("a", "b", "c")),
        question(id="q3", split="test", images=("a",) * 9, image_digests=("a",) * 9),
    ]
    started, rationales = run(tmp_path, monkeypatch, asked, dataclasses.replace(CONFIG, engine=engine))
    assert started.engine == dataclasses.replace(engine, images_per_request=needed)
    assert started.engine.arguments()["limit_mm_per_prompt"]["image"] == needed
    assert [r.question_id for r in rationales] == ["q1", "q2"]


def test_a_question_for_evaluation_alone_is_never_explained(tmp_path, monkeypatch):
    asked = [question(), question(id="q2", source="S", file="f.csv", evaluation_only=True)]
    with pytest.raises(InputError, match=r"q2 of S f\.csv is for evaluation alone.*split `train`"):
        run(tmp_path, monkeypatch, asked)
    assert list((tmp_path / "draft").iterdir()) == []


def test_test_questions_for_evaluation_alone_are_no_concern_of_the_teacher(tmp_path, monkeypatch):
    asked = [question(), question(id="q2", split="test", evaluation_only=True)]
    assert len(run(tmp_path, monkeypatch, asked)[1]) == 1
