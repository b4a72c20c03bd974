"""What stands in for absent questions has the form of each reader, and what stands in for a teacher answers rightly."""

import asyncio
import dataclasses
import hashlib
import io
import json
import zipfile

import pytest
from PIL import Image

from pipelines import flow
from pipelines.images.decoding import UnreadableImageError
from pipelines.images.sealed import SealedImage
from pipelines.inference import answers, prompts
from pipelines.inference.backends.backend import Backend
from pipelines.questions.config import QuestionsConfig
from pipelines.questions.image_locations import image_locations
from pipelines.questions.sources import source
from pipelines.questions.sources.source import SourceConfig
from pipelines.records import Arm, Question, Split, tables
from pipelines.rehearsal import standins
from pipelines.rehearsal.models import widened
from pipelines.teaching.requests import inference
from tests.pipelines.fixtures import question


@pytest.mark.parametrize(
    ("reader", "split", "splits"),
    [
        ("folder", None, {"train": 3, "test": 3}),
        ("folder", Split.TRAIN, {"train": 3}),
        ("pmc_vqa", None, {"train": 3, "test": 3}),
        ("pmc_vqa", Split.TEST, {"test": 3}),
        ("matcha", None, {"test": 6}),
    ],
)
def test_drawn_rows_stand_in_in_the_form_of_each_reader(tmp_path, reader, split, splits):
    absent = SourceConfig(reader=reader, table="data/all.csv", images="images.zip", split=split)
    config = QuestionsConfig(folder="/nowhere", sources=(absent, dataclasses.replace(absent, name="other")))
    assert not standins.are_there(config)
    written = standins.write(config, tmp_path, 3)
    assert standins.are_there(written)
    texts, names = set(), set()
    for each in written.sources:
        found = source.find(each, "/")
        candidates = list(source.candidates(found))
        assert [candidate.reason for candidate in candidates] == [""] * len(candidates)
        assert {name: [candidate.split for candidate in candidates].count(name) for name in splits} == splits
        assert sum(splits.values()) == len(candidates)
        assert all(image_locations(found)[0].has(candidate.images[0]) for candidate in candidates)
        texts |= {candidate.text for candidate in candidates}
        names |= {candidate.images[0] for candidate in candidates}
    assert len(texts) == len(names) == 2 * sum(splits.values())  # none is taken for another's duplicate


def test_what_stands_in_for_a_teacher_names_the_gold_option_of_what_it_is_asked(tmp_path):
    asked = [question(), question(id="q2", text="Another?", gold="A")]
    tables.write(tmp_path, Question, asked)
    told = standins.Answers.of(tmp_path)
    for each in asked:
        for prompt in (prompts.prompt(each, Arm.TEACHER, "A caption", final_line=True), prompts.explain_prompt(each)):
            assert answers.read(told.to(prompt), each.options).letter == each.gold
        asked_last = {"content": [{"type": "image_url"}, {"type": "text", "text": prompt}]}
        body = {"messages": [{"content": "A system message."}, asked_last]}
        assert answers.read(told.to_body(body), each.options).letter == each.gold


def test_what_stands_in_for_an_engine_is_asked_as_one_is_and_looks_at_the_images(tmp_path):
    picture = io.BytesIO()
    Image.new("RGB", (4, 4)).save(picture, "PNG")
    with zipfile.ZipFile(tmp_path / "0.zip", "w") as shard:
        shard.writestr("a.png", picture.getvalue())
    shown = SealedImage(tmp_path / "0.zip" / "a.png", hashlib.sha256(picture.getvalue()).hexdigest())
    engine: Backend = standins.Engine(
        inference(flow.resolve("pocket", [])["teach"]), standins.Answers({"Which?": "Answer: B"})
    )
    told = asyncio.run(engine.generate("Which?", (shown,), seed=1))
    assert told.text.endswith("Answer: B")
    with pytest.raises(UnreadableImageError):
        asyncio.run(engine.generate("Which?", (dataclasses.replace(shown, digest="0"),), seed=1))


def test_pocket_models_stand_in_with_a_context_as_long_as_large_ones_have(tmp_path):
    folder = widened(tmp_path / "models")
    for name in ("teacher", "base"):
        assert json.loads((folder / name / "config.json").read_text())["text_config"]["max_position_embeddings"] > 16384
        assert (folder / name / "model.safetensors").stat().st_size > 1 << 20
