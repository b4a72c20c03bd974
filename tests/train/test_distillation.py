"""A student is distilled from the teacher's top-k, only where the teacher wrote the student's target."""

from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import InputError
from pipelines.inference.logprobs import TopTokens, row_of, vocabulary_digest
from pipelines.records import Rationale, TopLogprobs, tables
from tests.pipelines.fixtures import rationale
from tests.train.conftest import example, tiny
from train import distillation
from train.adapter import attach
from train.encoding import encode
from train.student import Student
from train.validation import evaluate

TOP_K = 6
TARGETS = ["Answer: mill (A)", "Round and smooth.\nAnswer: vat (B)", "It is long.\nAnswer: vat (B)", "No. (A)"]


def top_logprobs(written, num=2, vocabulary="v"):
    """At each place 0.75 for the written token, and the rest for others."""
    tokens_TK = np.array([[token, *range(200, 199 + num)] for token in written], np.int32).reshape(-1, num)
    logprobs_TK = np.tile(np.log(np.array([0.75, *[0.25 / (num - 1)] * (num - 1)])), (len(written), 1))
    return TopTokens(vocabulary, np.array(written, np.int32), tokens_TK, logprobs_TK.astype(np.float16))


@given(target=st.lists(st.integers(0, 3), max_size=9), written=st.lists(st.integers(0, 3), max_size=9))
def test_a_target_has_the_teacher_s_top_k_as_far_as_the_teacher_wrote_the_same(target, written):
    topk = distillation.teacher_topk(target, "r", {"r": top_logprobs(written)})
    num_same = next((n for n, (a, b) in enumerate(zip(target, written, strict=False)) if a != b), None)
    num_same = min(len(target), len(written)) if num_same is None else num_same
    assert (topk is None) == (num_same == 0)
    if topk is not None:
        assert topk.ids_PK[:, 0].tolist() == target[:num_same]
        assert np.allclose(topk.probs_PK, [[0.75, 0.25]] * num_same, atol=1e-3)
        assert (topk.probs_PK.sum(axis=1) <= 1 + 1e-6).all()
    assert distillation.teacher_topk(target, "another", {"r": top_logprobs(written)}) is None


def _put(folder, rows, hinted=()):
    tables.write(folder, Rationale, [rationale(id=name, hinted=name in hinted) for name in rows])
    tables.write(folder, TopLogprobs, [row_of(name, each.as_json()) for name, each in rows.items()])


def test_what_was_kept_for_the_examples_is_read_and_for_no_others(processor, tmp_path):
    own = vocabulary_digest(processor.tokenizer.get_vocab())
    _put(tmp_path, {name: top_logprobs([1, 2], vocabulary=own) for name in ("r0", "r1", "r7")})
    known = distillation.read_top_logprobs(tmp_path, [example(0), example(1), example(2)], processor.tokenizer, 300)
    assert set(known) == {"r0", "r1"}
    assert known["r1"].written_T.tolist() == [1, 2]


def test_what_was_written_with_the_gold_answer_told_is_learnt_by_its_words_alone(processor, images, tmp_path):
    own = vocabulary_digest(processor.tokenizer.get_vocab())
    ids = processor.tokenizer(TARGETS[:2])["input_ids"]
    kept = {f"r{n}": top_logprobs(written, vocabulary=own) for n, written in enumerate(ids)}
    _put(tmp_path, kept, hinted=("r0",))
    rows = [example(n, target) for n, target in enumerate(TARGETS[:2])]
    known = distillation.read_top_logprobs(tmp_path, rows, processor.tokenizer, 300)
    assert set(known) == {"r1"}
    (told, unaided), _ = encode(rows, images, processor, 500, known)
    assert (told.num_topk_targets, unaided.num_topk_targets) == (0, len(ids[1]))
    assert told.num_targets > 0
    with pytest.raises(InputError, match="no top_logprobs of a rationale that was written without a hint"):
        distillation.read_top_logprobs(tmp_path, rows[:1], processor.tokenizer, 300)


def test_to_learn_from_what_was_not_kept_is_an_error_that_says_how_to_keep_it(processor, tmp_path):
    _put(tmp_path, {"r9": top_logprobs([1])})
    with pytest.raises(InputError, match=r"no top_logprobs.* --set teach\.top_logprobs=8"):
        distillation.read_top_logprobs(tmp_path, [example(0)], processor.tokenizer, 300)


def test_a_teacher_of_another_tokenizer_is_refused(processor, tmp_path):
    _put(tmp_path, {"r0": top_logprobs([1], vocabulary="elsewhere")})
    with pytest.raises(InputError, match=r"different tokenizers \(vocabularies elsewhere and .*distillation_weight=0"):
        distillation.read_top_logprobs(tmp_path, [example(0)], processor.tokenizer, 300)


def test_a_teacher_with_more_tokens_than_the_student_is_refused(processor, tmp_path):
    own = vocabulary_digest(processor.tokenizer.get_vocab())
    _put(tmp_path, {"r0": top_logprobs([1], vocabulary=own)})
    with pytest.raises(InputError, match="token 200, and the student has 200 tokens"):
        distillation.read_top_logprobs(tmp_path, [example(0)], processor.tokenizer, 200)


def test_in_a_pack_each_token_has_its_own_teacher_s_top_k_and_tokens_without_have_none(model, processor, images):
    rows = [example(n, target) for n, target in enumerate(TARGETS)]
    ids = processor.tokenizer(TARGETS)["input_ids"]
    known = {"r1": top_logprobs(ids[1]), "r3": top_logprobs([*ids[3][:3], 201, 202])}
    encoded, _ = encode(rows, images, processor, 500, known)
    assert [one.num_topk_targets for one in encoded] == [0, len(ids[1]), 0, 3]
    batch, _ = Student(attach(model, rank=2, alpha=4, seed=0, base="base"), processor, 1).read(encoded)
    expected = [one.num_topk_targets > place for one in encoded for place in range(one.num_targets)]
    assert batch.targets.has_topk_S.tolist() == expected
    has_topk = batch.targets.has_topk_S
    assert torch.equal(batch.targets.topk_ids_SK[has_topk, 0], batch.targets.ids_S[has_topk])


def _confident_model(processor, seed):
    """The tiny model with an adapter, with a larger head so that it differs clearly from another one."""
    base = tiny(processor, {"text_config": "packed", "vision_config": "sdpa"})
    base.lm_head.weight.data *= 30
    return attach(base, rank=4, alpha=8, seed=seed, base="base")


def _teacher_logprobs(processor, images, rows):
    """Along these targets, by another tiny model: its top logprobs as an engine returns them, and all logprobs_SV."""
    teacher = _confident_model(processor, seed=1)
    torch.manual_seed(9)
    for name, parameter in teacher.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.6)
    encoded, _ = encode(rows, images, processor, 500)
    student = Student(teacher, processor, 1)
    known, whole = {}, {}
    for row, one in zip(rows, encoded, strict=True):
        hidden_SD, head_VD = student.loss.hidden(*student.read([one]))
        logprobs_SV = (hidden_SD @ head_VD.T).log_softmax(dim=1).detach()
        top = logprobs_SV.topk(TOP_K)
        written = one.input_ids[-one.num_targets :]
        flat = [[token, *ids] for token, ids in zip(written, top.indices.tolist(), strict=True)]
        flat_logprobs = [[0.0, *each] for each in top.values.tolist()]
        known[row.rationale_id] = TopTokens.of("v", written, list(chain(*flat)), list(chain(*flat_logprobs)), TOP_K)
        whole[row.rationale_id] = logprobs_SV
    return known, whole


def _trained(processor, images, rows, known, distillation_weight):
    """A student after 60 updates on these examples."""
    adapted = _confident_model(processor, seed=0)
    student = Student(adapted, processor, 1, distillation_weight=distillation_weight)
    encoded, _ = encode(rows, images, processor, 500, known)
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=1e-2, weight_decay=0)
    for _ in range(60):
        objective, _ = student.loss(*student.read(encoded))
        (objective / sum(one.num_targets for one in encoded)).backward()
        optimizer.step()
        optimizer.zero_grad()
    return student


def test_distilling_brings_the_student_nearer_to_its_teacher_on_what_it_was_not_trained_on(
    processor, images, monkeypatch
):
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: None)
    words = ["Round", "smooth", "long", "It is", "No.", "and", "Answer:", "vat (B)", "mill (A)"]
    rng = np.random.default_rng(0)
    rows = [example(n, " ".join(rng.choice(words, 6))) for n in range(16)]
    known, whole = _teacher_logprobs(processor, images, rows)
    held_out, _ = encode(rows[12:], images, processor, 500, known)

    def divergences(student):
        """From the teacher over the whole vocabulary, and over its top-k with all other tokens as one outcome."""
        full = 0.0
        for row, one in zip(rows[12:], held_out, strict=True):
            hidden_SD, head_VD = student.loss.hidden(*student.read([one]))
            own_SV = (hidden_SD @ head_VD.T).log_softmax(dim=1).detach()
            full += float(torch.nn.functional.kl_div(own_SV, whole[row.rationale_id], log_target=True, reduction="sum"))
        return full / sum(one.num_targets for one in held_out), evaluate(student, held_out, 500, 0, 1).divergence

    plain, plain_topk = divergences(_trained(processor, images, rows[:12], known, 0.0))
    distilled, distilled_topk = divergences(_trained(processor, images, rows[:12], known, 2.0))
    assert distilled < 0.8 * plain
    assert distilled_topk < 0.8 * plain_topk
    assert plain_topk <= plain  # over the top-k alone it is never more
    assert distilled_topk <= distilled


def test_without_a_weight_the_teacher_s_top_k_changes_no_gradient(model, processor, images):
    rows = [example(n, target) for n, target in enumerate(TARGETS)]
    ids = processor.tokenizer(TARGETS)["input_ids"]
    known = {f"r{n}": top_logprobs(each) for n, each in enumerate(ids)}
    student = Student(attach(model, rank=2, alpha=4, seed=0, base="base"), processor, 1)
    gradients = []
    for top in (known, {}):
        encoded, _ = encode(rows, images, processor, 500, top)
        student.model.zero_grad()
        student.loss(*student.read(encoded))[0].backward()
        gradients.append([p.grad.clone() for p in student.model.parameters() if p.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
