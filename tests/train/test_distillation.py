"""A student learns what its teacher held likely, only where the teacher wrote what the student is to write."""

from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import InputError
from pipelines.inference.logprobs import TopTokens, row_of, vocabulary_digest
from pipelines.records import TopLogprobs, tables
from tests.train.conftest import example, tiny
from train import distillation
from train.adapter import attach
from train.encoding import encode
from train.student import Student
from train.validation import evaluate

NUM_LIKELIEST = 6
TARGETS = ["Answer: mill (A)", "Round and smooth.\nAnswer: vat (B)", "It is long.\nAnswer: vat (B)", "No. (A)"]


def likeliest(written, num=2, vocabulary="v"):
    """Of each token itself, sure, and of one other."""
    tokens_TK = np.array([[token, *range(200, 199 + num)] for token in written], np.int32).reshape(-1, num)
    logprobs_TK = np.tile(np.log(np.array([0.75, *[0.25 / (num - 1)] * (num - 1)])), (len(written), 1))
    return TopTokens(vocabulary, np.array(written, np.int32), tokens_TK, logprobs_TK.astype(np.float16))


@given(target=st.lists(st.integers(0, 3), max_size=9), written=st.lists(st.integers(0, 3), max_size=9))
def test_a_target_is_told_as_far_as_the_teacher_wrote_the_same(target, written):
    told = distillation.told(target, "r", {"r": likeliest(written)})
    num_same = next((n for n, (a, b) in enumerate(zip(target, written, strict=False)) if a != b), None)
    num_same = min(len(target), len(written)) if num_same is None else num_same
    assert (told is None) == (num_same == 0)
    if told is not None:
        assert told.tokens_PK[:, 0].tolist() == target[:num_same]
        assert np.allclose(told.shares_PK, [[0.75, 0.25]] * num_same, atol=1e-3)
        assert (told.shares_PK.sum(axis=1) <= 1 + 1e-6).all()
    assert distillation.told(target, "another", {"r": likeliest(written)}) is None


def _put(folder, rows):
    tables.write(folder, TopLogprobs, [row_of(name, each.as_json()) for name, each in rows.items()])


def test_what_was_kept_for_the_examples_is_read_and_for_no_others(processor, tmp_path):
    own = vocabulary_digest(processor.tokenizer.get_vocab())
    _put(tmp_path, {name: likeliest([1, 2], vocabulary=own) for name in ("r0", "r1", "r7")})
    known = distillation.read(tmp_path, [example(0), example(1), example(2)], processor.tokenizer, 300)
    assert set(known) == {"r0", "r1"}
    assert known["r1"].written_T.tolist() == [1, 2]


def test_to_learn_from_what_was_not_kept_is_an_error_that_says_how_to_keep_it(processor, tmp_path):
    _put(tmp_path, {"r9": likeliest([1])})
    with pytest.raises(InputError, match=r"no top_logprobs.* --set teach\.top_logprobs=8"):
        distillation.read(tmp_path, [example(0)], processor.tokenizer, 300)


def test_a_teacher_of_another_tokenizer_is_refused(processor, tmp_path):
    _put(tmp_path, {"r0": likeliest([1], vocabulary="elsewhere")})
    with pytest.raises(InputError, match=r"different tokenizers \(vocabularies elsewhere and .*distillation_weight=0"):
        distillation.read(tmp_path, [example(0)], processor.tokenizer, 300)


def test_a_teacher_that_tells_tokens_which_the_student_has_no_place_for_is_refused(processor, tmp_path):
    own = vocabulary_digest(processor.tokenizer.get_vocab())
    _put(tmp_path, {"r0": likeliest([1], vocabulary=own)})
    with pytest.raises(InputError, match="token 200, and the student has 200"):
        distillation.read(tmp_path, [example(0)], processor.tokenizer, 200)


def test_in_a_pack_each_place_has_its_own_teacher_s_words_and_places_without_have_none(model, processor, images):
    rows = [example(n, target) for n, target in enumerate(TARGETS)]
    ids = processor.tokenizer(TARGETS)["input_ids"]
    known = {"r1": likeliest(ids[1]), "r3": likeliest([*ids[3][:3], 201, 202])}
    encoded, _ = encode(rows, images, processor, 500, known)
    assert [one.num_told for one in encoded] == [0, len(ids[1]), 0, 3]
    batch, _ = Student(attach(model, rank=2, alpha=4, seed=0, base="base"), processor, 1).read(encoded)
    expected = [one.num_told > place for one in encoded for place in range(one.num_targets)]
    assert batch.lesson.is_told_S.tolist() == expected
    told = batch.lesson.is_told_S
    assert torch.equal(batch.lesson.likeliest_SK[told, 0], batch.lesson.targets_S[told])


def _sharp(processor, seed):
    """The tiny model with an adapter, sure enough of its words to differ from another one."""
    base = tiny(processor, {"text_config": "packed", "vision_config": "sdpa"})
    base.lm_head.weight.data *= 30
    return attach(base, rank=4, alpha=8, seed=seed, base="base")


def _teacher_says(processor, images, rows):
    """The tiny model with other weights, and what it holds likely along these targets, as an engine tells it."""
    teacher = _sharp(processor, seed=1)
    torch.manual_seed(9)
    for name, parameter in teacher.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.6)
    encoded, _ = encode(rows, images, processor, 500)
    learner = Student(teacher, processor, 1)
    known, whole = {}, {}
    for row, one in zip(rows, encoded, strict=True):
        hidden_SD, head_WD = learner.loss._hidden(*learner.read([one]))
        logprobs_SW = (hidden_SD @ head_WD.T).log_softmax(dim=1).detach()
        top = logprobs_SW.topk(NUM_LIKELIEST)
        written = one.input_ids[-one.num_targets :]
        flat = [[token, *ids] for token, ids in zip(written, top.indices.tolist(), strict=True)]
        flat_logprobs = [[0.0, *each] for each in top.values.tolist()]
        known[row.rationale_id] = TopTokens.of(
            "v", written, list(chain(*flat)), list(chain(*flat_logprobs)), NUM_LIKELIEST
        )
        whole[row.rationale_id] = logprobs_SW
    return known, whole


def _taught(processor, images, rows, known, distillation_weight):
    """A student after some lessons on the first examples."""
    adapted = _sharp(processor, seed=0)
    learner = Student(adapted, processor, 1, distillation_weight=distillation_weight)
    encoded, _ = encode(rows, images, processor, 500, known)
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=1e-2, weight_decay=0)
    for _ in range(60):
        objective, _ = learner.loss(*learner.read(encoded))
        (objective / sum(one.num_targets for one in encoded)).backward()
        optimizer.step()
        optimizer.zero_grad()
    return learner


def test_distilling_brings_the_student_nearer_to_its_teacher_on_what_it_was_not_taught(processor, images, monkeypatch):
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: None)
    words = ["Round", "smooth", "long", "It is", "No.", "and", "Answer:", "vat (B)", "mill (A)"]
    rng = np.random.default_rng(0)
    rows = [example(n, " ".join(rng.choice(words, 6))) for n in range(16)]
    known, whole = _teacher_says(processor, images, rows)
    watched, _ = encode(rows[12:], images, processor, 500, known)

    def divergences(learner):
        """From all that the teacher holds likely, and from the likeliest and all others as one."""
        of_all = 0.0
        for row, one in zip(rows[12:], watched, strict=True):
            hidden_SD, head_WD = learner.loss._hidden(*learner.read([one]))
            own_SW = (hidden_SD @ head_WD.T).log_softmax(dim=1).detach()
            of_all += float(
                torch.nn.functional.kl_div(own_SW, whole[row.rationale_id], log_target=True, reduction="sum")
            )
        return of_all / sum(one.num_targets for one in watched), evaluate(learner, watched, 500, 0, 1).divergence

    plain, plain_told = divergences(_taught(processor, images, rows[:12], known, 0.0))
    distilled, distilled_told = divergences(_taught(processor, images, rows[:12], known, 2.0))
    assert distilled < 0.8 * plain
    assert distilled_told < 0.8 * plain_told
    assert plain_told <= plain  # what is told is less than all
    assert distilled_told <= distilled


def test_without_a_weight_what_is_known_changes_no_gradient(model, processor, images):
    rows = [example(n, target) for n, target in enumerate(TARGETS)]
    ids = processor.tokenizer(TARGETS)["input_ids"]
    known = {f"r{n}": likeliest(each) for n, each in enumerate(ids)}
    learner = Student(attach(model, rank=2, alpha=4, seed=0, base="base"), processor, 1)
    gradients = []
    for told in (known, {}):
        encoded, _ = encode(rows, images, processor, 500, told)
        learner.model.zero_grad()
        learner.loss(*learner.read(encoded))[0].backward()
        gradients.append([p.grad.clone() for p in learner.model.parameters() if p.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
