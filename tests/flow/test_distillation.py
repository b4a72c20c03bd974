"""What the real teacher's engine held likely is what the teacher holds likely, and students come nearer to it."""

import json

import numpy as np
import pytest
import torch

from pipelines.images import sealed
from pipelines.inference import prompts
from pipelines.inference.logprobs import read_row
from pipelines.recipes import POCKET_TEACHER
from pipelines.records import Arm, Question, Rationale, TopLogprobs, TrainingExample, tables
from train import adapter, distillation, student
from train.encoding import encode
from train.recipes import POCKET_BASE
from train.student import Student
from train.validation import evaluate

ARM = Arm.RATIONALE_THEN_ANSWER
NUM_EPOCHS, BATCH_SIZE, NUM_HELD_OUT = 24, 8, 24  # long enough for hard labels alone to be memorised


def test_the_engine_told_what_the_teacher_itself_holds_likely(small_run):
    asked = {question.id: question for question in tables.read(small_run.folder / "questions", Question)}
    told = {row.rationale_id: read_row(row) for row in tables.read(small_run.folder / "rationales", TopLogprobs)}
    explained = [r for r in tables.read(small_run.folder / "rationales", Rationale, condition="real") if r.id in told]
    assert len(explained) > 100
    model, processor = student.load(POCKET_TEACHER, "fp32")
    model.set_attn_implementation("sdpa")
    for rationale in explained[:6]:
        question, likeliest = asked[rationale.question_id], told[rationale.id]
        prompt = prompts.prompt(question, Arm.TEACHER)
        content = [{"type": "image"}, {"type": "text", "text": prompt}]
        text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        image = sealed.of(small_run.folder / "questions", question)[0].decode()
        inputs = processor(text=[text], images=[image], return_tensors="pt")
        written_1T = torch.tensor(likeliest.written_T).long()[None]
        num_asked = inputs["input_ids"].shape[1]
        inputs["input_ids"] = torch.cat([inputs["input_ids"], written_1T], dim=1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        inputs["mm_token_type_ids"] = (inputs["input_ids"] == processor.image_token_id).int()
        with torch.no_grad():
            logprobs_TW = model(**inputs).logits[0, num_asked - 1 : -1].log_softmax(dim=1)
        own_TK = logprobs_TW.gather(1, torch.tensor(likeliest.tokens_TK).long())
        assert np.allclose(own_TK, likeliest.logprobs_TK.astype(np.float32), rtol=2e-2, atol=2e-2)
        assert torch.allclose(own_TK.exp().sum(1), logprobs_TW.topk(own_TK.shape[1]).values.exp().sum(1), atol=1e-3)
        assert processor.tokenizer.decode(likeliest.written_T, skip_special_tokens=True).strip() == rationale.text


def test_a_fit_learned_from_the_teacher_along_nearly_all_of_its_rationales(small_run):
    sealed = json.loads((small_run.folder / f"adapters/{ARM}/manifest.json").read_text())
    assert sealed["tally"]["metrics"]["teacher_topk_share"] > 0.9
    steps = json.loads((small_run.folder / f"adapters/{ARM}/training.json").read_text())["steps"]
    first, last = (sum(step["divergence"] for step in part) for part in (steps[:5], steps[-5:]))
    assert last < 0.95 * first


@pytest.fixture(scope="module")
def trained(small_run):
    """distillation weight -> the pocket student's metrics on held-out examples, after training with that weight."""
    rows = tables.read(small_run.folder / f"examples/{ARM}", TrainingExample)

    def train(weight):
        model, processor = student.load(POCKET_BASE, "fp32")
        vocab_size = model.config.text_config.vocab_size
        top_logprobs = distillation.read_top_logprobs(
            small_run.folder / "rationales", rows, processor.tokenizer, vocab_size
        )
        encoded, _ = encode(rows, small_run.folder / "questions", processor, 512, top_logprobs)
        to_train_on, held_out = encoded[NUM_HELD_OUT:], encoded[:NUM_HELD_OUT]
        adapted = adapter.attach(model, rank=16, alpha=32, seed=0, base=POCKET_BASE)
        the_student = Student(adapted, processor, 1, distillation_weight=weight)
        optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=2e-3, weight_decay=0)
        for start in list(range(0, len(to_train_on), BATCH_SIZE)) * NUM_EPOCHS:
            pack = to_train_on[start : start + BATCH_SIZE]
            objective, _ = the_student.loss(*the_student.read(pack))
            (objective / sum(one.num_targets for one in pack)).backward()
            optimizer.step()
            optimizer.zero_grad()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.distributed, "all_reduce", lambda tensor: None)
            return evaluate(the_student, held_out, 4096, 0, 1)

    return {weight: train(weight) for weight in (0.0, 1.0)}


def test_distilling_lowers_the_divergence_from_the_real_teacher_on_questions_that_were_held_out(trained):
    assert trained[1.0].divergence < 0.8 * trained[0.0].divergence
    assert trained[1.0].loss < 1.1 * trained[0.0].loss
