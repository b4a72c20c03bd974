"""What stands in for the large and the absent in a rehearsal: questions, a teacher, and students."""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import Any

from infra import storage
from infra.errors import InputError
from infra.manifest import Tally, write_json
from infra.stage import Task
from pipelines.inference import prompts
from pipelines.inference.backends.backend import NOTHING, Before, Completion, ShownImage
from pipelines.inference.config import InferenceConfig
from pipelines.questions.config import QuestionsConfig
from pipelines.questions.sources import pocket
from pipelines.questions.sources.source import SourceConfig
from pipelines.records import LETTERS, Arm, Question, TrainingExample, tables
from pipelines.records.endpoint import Endpoint, ServedModel
from pipelines.rehearsal import stub_endpoint

_REASON = "What is seen here in the middle of the picture and at its border leads to one answer."


def are_there(config: QuestionsConfig) -> bool:
    """Whether the questions' folder, or each table that lies in none, is on this machine or in a store that answers."""
    places = [config.folder] if config.folder is not None else [each.table for each in config.sources]
    return all(storage.exists(place) for place in places)


def write(config: QuestionsConfig, folder: Path, num_questions: int) -> QuestionsConfig:
    """Write drawn questions for each source, in the form that its reader reads; the settings that read these."""
    sources = []
    for number, each in enumerate(config.sources):
        place = folder / str(number)
        drawn = pocket.PocketConfig(seed=number, num_train_questions=num_questions, num_test_questions=num_questions)
        pocket.write(place, drawn)
        drawn_table = place / "questions.jsonl"
        rows = [json.loads(line) for line in drawn_table.read_text().splitlines()]
        drawn_table.unlink()
        for row in rows:  # two sources never have a figure of the same name
            name = f"{number}-{PurePosixPath(row['image']).name}"
            (place / row["image"]).rename(place / "images" / name)
            row["image"] = name
        table = place / f"{PurePosixPath(each.table).stem or 'questions'}.jsonl"
        table.write_text("".join(json.dumps(row) + "\n" for row in _in_form(each, rows)))
        sources.append(dataclasses.replace(each, table=str(table), images=str(place / "images")))
    return dataclasses.replace(config, folder=None, sources=tuple(sources))


def _in_form(config: SourceConfig, rows: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Drawn rows as the reader of a source has them; each asks in words of its own, lest it be taken for another."""
    for row in rows:
        if config.split is not None and row["split"] != config.split:
            continue
        name, answer = row["image"], row["answer"]
        question = f"{row['question'].removesuffix('?')} of {name}?"
        options = dict(zip(LETTERS, row["options"], strict=False))
        if config.reader == "pmc_vqa":
            choices = {f"Choice {letter}": option for letter, option in options.items()}
            yield {"Figure_path": name, "Question": question, **choices, "Answer": answer, "split": row["split"]}
        elif config.reader == "matcha":
            asked = {"question": question, "answer": answer, "options": options, "topic": "Phase Analysis"}
            yield {"vqa": [asked], "images": [{"image_path": name, "geometry": None}]}
        else:
            yield row | {"question": question}


@dataclasses.dataclass(frozen=True)
class Answers:
    """The gold options by the words in which questions are asked."""

    gold: dict[str, str]

    @classmethod
    def of(cls, folder: Path) -> "Answers":
        """Those of sealed questions."""
        questions = tables.stream(folder, Question)
        return cls({prompts.asked(q): prompts.answer(q.options[LETTERS.index(q.gold)], q.gold) for q in questions})

    def to(self, prompt: str) -> str:
        """A rationale with the gold answer to what is asked."""
        line = next((line for asked, line in self.gold.items() if asked in prompt), "")
        return f"{_REASON}\n{line}"

    def to_body(self, body: dict[str, Any]) -> str:
        """The same to a request of OpenAI's chat completions."""
        return self.to(body["messages"][-1]["content"][-1]["text"])


class Engine:
    """A teacher that costs nothing, in the place of a vLLM engine; it reads the images, as a real one does."""

    def __init__(self, config: InferenceConfig, answers: Answers) -> None:
        self.num_at_once = config.engine.max_num_seqs
        self._answers = answers

    async def generate(
        self, prompt: str, images: Sequence[ShownImage], seed: int, before: Before = NOTHING
    ) -> Completion:
        """See `pipelines.inference.backends.backend.Backend`."""
        for image in images:
            image.decode()
        return Completion(text=self._answers.to(prompt), finish_reason="stop", num_prompt_tokens=1, num_output_tokens=1)

    async def close(self) -> None:
        """There is nothing to end."""


def fit(task: Task) -> Tally:
    """An adapter that is none, in the place of a fitted one."""
    (arm,) = task.config.arms
    num = tables.count(task.inputs[f"examples/{arm}"].path, TrainingExample)
    if not num:
        raise InputError(f"There is no example for {arm}: no rationale was accepted.")
    write_json(task.draft / "adapter_config.json", {"arm": arm})
    return Tally(rows={"examples": num, "trained_on": num})


def deploy(task: Task, running: ExitStack) -> Tally:
    """An endpoint that answers as all models at once, in the place of engines."""
    answers = Answers.of(task.inputs["questions"].path)
    adapters = {str(arm): task.inputs[f"adapters/{arm}"].digest for arm in task.config.arms}
    models = tuple(
        ServedModel(name=arm, arm=Arm(arm), digest=adapters.get(arm, ""))
        for arm in (Arm.ZERO_SHOT, Arm.TEACHER, *adapters)
    )
    url = running.enter_context(stub_endpoint.endpoint(answers.to_body, [model.name for model in models]))
    Endpoint(base_url=url, models=models).write(task.draft)
    return Tally(rows={"models": len(models)})
