"""One engine's work, with an engine that costs nothing; tests/flow has it on Ray, and with the real one."""

import asyncio
import dataclasses
from collections import Counter

import pytest

from infra.errors import ArtifactError, ClusterError
from pipelines.images import sealed
from pipelines.images.decoding import UnreadableImageError
from pipelines.inference import ledger
from pipelines.inference.backends.backend import NOTHING, Completion, EngineDiedError, RowError
from pipelines.inference.logprobs import TopTokens
from pipelines.inference.request_set import read_batch
from pipelines.inference.requests import ExampleTurn
from pipelines.inference.worker import Account, Worker
from tests.pipelines.teaching.fixtures import attempt, config, lines, many, prepare, requests

ANSWER = "It is round, and it has a smooth border.\nAnswer: cast (B)"


class Scripted:
    """Says what a function of the request's place among all requests tells it to."""

    def __init__(self, reply, num_at_once=8):
        self.num_at_once = num_at_once
        self.reply = reply
        self.asked = []
        self.at_once = self.most_at_once = 0
        self.alone = []

    async def generate(self, prompt, paths, seed, before=NOTHING):
        self.asked.append((prompt, tuple(paths), seed))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await asyncio.sleep(0.001)
            self.alone.append(self.at_once == 1)
            said = self.reply(len(self.asked) - 1, prompt, paths)
            if isinstance(said, BaseException):
                raise said
            return said if isinstance(said, Completion) else completion(said)
        finally:
            self.at_once -= 1

    async def close(self):
        pass


def completion(text, **changes):
    fields = {"finish_reason": "stop", "num_prompt_tokens": 40, "num_output_tokens": 10, "logprobs": (-0.5, -0.1)}
    return Completion(text=text, **(fields | changes))


def settle(work, plan, engine, name="e"):
    """Carry the plan out with this engine, all batches at once; the accounts."""

    async def all_batches():
        worker = Worker(work, name, lambda config: engine)
        try:
            return await asyncio.gather(*(worker.settle(number) for number in range(plan.num_batches)))
        finally:
            await worker.close()

    return asyncio.run(all_batches())


def statuses(work):
    return [(line["status"], line["error"]) for line in lines(work.ledger)]


def test_every_request_is_answered_once_with_its_images_and_written_down_whole(tmp_path):
    work, plan, asking = prepare(tmp_path, many(20), config(batch_size=3, num_rationales=2))
    engine = Scripted(lambda number, prompt, paths: ANSWER)
    accounts = settle(work, plan, engine)
    assert sum(account.questions for account in accounts) == 20
    assert Counter(line["id"] for line in lines(work.ledger)) == {request.id: 1 for request in requests(asking)}
    (first, *_) = lines(work.ledger)
    assert (first["text"], first["letter"], first["mean_logprob"], first["min_logprob"]) == (ANSWER, "B", -0.3, -0.5)
    assert {shown for _, shown, _ in engine.asked} == {sealed.of(work.images, q) for q in many(20)}
    assert engine.most_at_once <= engine.num_at_once


@pytest.mark.parametrize(
    ("said", "status", "error"),
    [
        (RowError("prompt_too_long"), "failed", "prompt_too_long"),
        (UnreadableImageError("damaged_image"), "quarantined", "damaged_image"),
        (completion("It is rou", finish_reason="length"), "failed", "truncated"),
        ("I cannot tell.", "failed", "no_answer"),
    ],
)
def test_a_row_that_fails_is_tried_again_with_another_seed_and_then_given_up_alone(tmp_path, said, status, error):
    work, plan, _ = prepare(tmp_path, many(3), config(attempts=3))
    poor = str(work.images / "images/0.zip/1.png")
    engine = Scripted(lambda number, prompt, paths: said if str(paths[0]) == poor else ANSWER)
    (account,) = settle(work, plan, engine)
    assert account.settled == {"real/answered": 2, f"real/{status}": 1}
    assert account.reasons == {f"real/{error}": 1}
    assert statuses(work).count((status, error)) == 3
    assert len({seed for _, paths, seed in engine.asked if str(paths[0]) == poor}) == 3


def test_a_row_that_succeeds_at_its_second_attempt_is_explained(tmp_path):
    work, plan, _ = prepare(tmp_path, many(1), config(attempts=3))
    engine = Scripted(lambda number, prompt, paths: ANSWER if number else "Hm.")
    (account,) = settle(work, plan, engine)
    assert (account.made, account.settled) == (2, {"real/answered": 1})


def test_greedily_a_poor_text_is_not_asked_for_again(tmp_path):
    work, plan, _ = prepare(tmp_path, many(1), config(attempts=3, temperature=0.0))
    engine = Scripted(lambda number, prompt, paths: "Hm.")
    (account,) = settle(work, plan, engine)
    assert (account.made, account.settled) == (1, {"real/failed": 1})


def test_an_answer_that_never_comes_is_given_up_in_time(tmp_path):
    work, plan, _ = prepare(tmp_path, many(2), config(attempts=1, timeout_s=0.05))

    class Stuck(Scripted):
        async def generate(self, prompt, paths, seed, before=NOTHING):
            if paths[0].path.name == "1.png":
                await asyncio.sleep(60)
            return completion(ANSWER)

    (account,) = settle(work, plan, Stuck(None))
    assert account.reasons == {"real/timed_out": 1}
    assert account.settled == {"real/answered": 1, "real/failed": 1}


def test_a_probe_is_whatever_it_is(tmp_path):
    settings = config(grounding_share=1.0, attempts=3)
    work, plan, _ = prepare(tmp_path, many(2), settings)
    account = Account()
    for each in settle(work, plan, Scripted(lambda n, p, paths: ANSWER if paths else "I see no image.")):
        account.settled += each.settled
        account.needed += each.needed
    assert account.settled == {"real/answered": 2, "shuffled/answered": 2, "absent/answered": 1}
    assert account.needed == 2


@pytest.mark.parametrize(
    ("written", "is_kept"),
    [
        (completion(ANSWER), True),
        (completion(ANSWER, finish_reason="length"), False),
        (completion("It is round."), False),
        (completion(f"Let me see.</think>{ANSWER}"), False),
        (completion(f"<|image_pad|>{ANSWER}"), False),
    ],
)
def test_the_likeliest_tokens_are_kept_of_what_can_teach_and_is_all_that_was_written(tmp_path, written, is_kept):
    likeliest = TopTokens.of("v", [3], [3, 3, 9], [-0.5, -0.5, -2.0], 2)
    work, plan, _ = prepare(tmp_path, many(1), config(attempts=1))
    settle(work, plan, Scripted(lambda *_: dataclasses.replace(written, top_logprobs=likeliest)))
    (made,) = ledger.attempts(next(work.ledger.glob("*.jsonl")))
    assert made.top_logprobs == (likeliest.as_json() if is_kept else None)


@pytest.mark.parametrize(("finish_reason", "letter"), [("stop", "B"), ("length", None)])
def test_an_option_that_is_only_named_is_an_answer_where_the_text_came_to_its_end(tmp_path, finish_reason, letter):
    work, plan, _ = prepare(tmp_path, many(1), config(attempts=1))
    settle(work, plan, Scripted(lambda *_: completion("It is a cast.", finish_reason=finish_reason)))
    (made,) = ledger.attempts(next(work.ledger.glob("*.jsonl")))
    assert made.letter == letter


def test_of_a_probe_no_likeliest_tokens_are_kept(tmp_path):
    likeliest = TopTokens.of("v", [3], [3, 3, 9], [-0.5, -0.5, -2.0], 2)
    work, plan, asking = prepare(tmp_path, many(2), config(grounding_share=1.0))
    settle(work, plan, Scripted(lambda *_: completion(ANSWER, top_logprobs=likeliest)))
    real = {request.id for request in requests(asking) if request.needs_answer}
    made = list(ledger.attempts(next(work.ledger.glob("*.jsonl"))))
    assert len(made) > len(real) == 2
    assert {attempt.id for attempt in made if attempt.top_logprobs} == real


def test_the_gold_answer_is_told_only_when_no_rationale_was_right(tmp_path):
    settings = config(rationalise=True, num_rationales=2, attempts=1)
    work, plan, _ = prepare(tmp_path, many(2), settings)
    wrong = str(work.images / "images/0.zip/1.png")
    engine = Scripted(lambda n, prompt, paths: "Flat.\nAnswer: mill (A)" if str(paths[0]) == wrong else ANSWER)
    (account,) = settle(work, plan, engine)
    hinted = [paths for prompt, paths, _ in engine.asked if "The right option is" in prompt]
    assert [str(path) for (path,) in hinted] == [wrong]
    assert account.settled.total() == 5


def die_when(condition):
    """An engine that is gone for good at a certain request: nothing that was under way is answered."""

    class Mortal(Scripted):
        dead = False

        async def generate(self, prompt, paths, seed, before=NOTHING):
            self.asked.append((prompt, tuple(paths), seed))
            self.at_once += 1
            try:
                await asyncio.sleep(0.001)
                self.alone.append(self.at_once == 1)
                if self.dead or condition(len(self.asked), paths):
                    self.dead = True
                    raise EngineDiedError
                return completion(ANSWER)
            finally:
                self.at_once -= 1

    return Mortal(None)


def test_an_engine_that_lives_again_asks_only_what_it_had_not_finished(tmp_path):
    work, plan, asking = prepare(tmp_path, many(40), config(batch_size=4))
    first = die_when(lambda number, paths: number > 20)
    with pytest.raises(EngineDiedError):
        settle(work, plan, first)
    finished = {line["id"] for line in lines(work.ledger)}
    assert 0 < len(finished) < 40
    second = Scripted(lambda number, prompt, paths: ANSWER)
    accounts = settle(work, plan, second)
    assert len(second.asked) == 40 - len(finished)
    assert sum(account.settled.total() for account in accounts) == 40
    assert Counter(line["id"] for line in lines(work.ledger)) == {request.id: 1 for request in requests(asking)}


def test_a_prompt_that_kills_the_engine_is_found_alone_given_up_and_costs_no_other_row(tmp_path):
    work, plan, asking = prepare(tmp_path, many(30), config(batch_size=5, attempts=2))
    poison = str(work.images / "images/0.zip/17.png")
    deaths = 0
    while True:
        engine = die_when(lambda number, paths: str(paths[0]) == poison)
        try:
            settle(work, plan, engine)
            break
        except EngineDiedError:
            deaths += 1
            assert deaths < 6
    assert deaths == 4
    by_id = {}
    for line in lines(work.ledger):
        by_id.setdefault(line["id"], []).append(line["error"])
    (culprit,) = [each for each, errors in by_id.items() if errors[-1]]
    assert by_id[culprit] == ["engine_died_of_it"] * 2
    assert len(by_id) == 30
    assert culprit == requests(asking)[17].id


@pytest.mark.parametrize(("deaths", "at_once"), [(1, 64), (2, 16), (3, 1)])
def test_the_more_deaths_a_request_was_under_way_in_the_fewer_others_go_with_it(tmp_path, deaths, at_once):
    work, plan, asking = prepare(tmp_path, many(64), config(batch_size=64))
    for life in range(deaths):
        begun = "".join(f"{request.id}\n" for request in requests(asking))
        (work.plan.parent / f"e-{life:03}.inflight").write_text(begun)
    engine = Scripted(lambda number, prompt, paths: ANSWER, num_at_once=64)
    settle(work, plan, engine)
    assert (engine.most_at_once, len(engine.asked)) == (at_once, 64)


def test_an_engine_that_dies_of_everything_is_given_up(tmp_path):
    work, plan, _ = prepare(tmp_path, many(60), config(batch_size=60))
    for _ in range(10):
        with pytest.raises(EngineDiedError):
            settle(work, plan, die_when(lambda number, paths: True))
    with pytest.raises(ClusterError, match="died 10 times in a row"):
        settle(work, plan, die_when(lambda number, paths: True))


def test_an_error_that_nobody_thought_of_is_its_row_s_alone(tmp_path):
    work, plan, _ = prepare(tmp_path, many(3), config(attempts=2))
    odd = str(work.images / "images/0.zip/1.png")
    engine = Scripted(lambda number, prompt, paths: KeyError("a patient") if str(paths[0]) == odd else ANSWER)
    (account,) = settle(work, plan, engine)
    assert (account.settled, account.reasons) == ({"real/answered": 2, "real/failed": 1}, {"real/KeyError": 1})
    assert "a patient" not in "".join(path.read_text() for path in work.ledger.glob("*.jsonl"))


def test_another_engine_s_death_is_none_of_ours(tmp_path):
    work, plan, _ = prepare(tmp_path, many(6), config())
    with pytest.raises(EngineDiedError):
        settle(work, plan, die_when(lambda number, paths: True), name="first")
    engine = Scripted(lambda number, prompt, paths: ANSWER)
    settle(work, plan, engine, name="second")
    assert len(engine.asked) == 6
    assert not all(engine.alone)


def test_a_full_ledger_stops_the_work_with_its_error(tmp_path, monkeypatch):
    work, plan, _ = prepare(tmp_path, many(6), config())

    def full(self, attempt):
        raise ArtifactError("The ledger is full")

    monkeypatch.setattr(ledger.Writer, "add", full)
    with pytest.raises(ArtifactError, match="full"):
        settle(work, plan, Scripted(lambda number, prompt, paths: ANSWER))


def test_an_account_travels_whole():
    account = Account(questions=3, needed=4, right=2, worker="e", uptime_s=1.5)
    account.settled.update({"real/answered": 3, "real/failed": 1})
    account.reasons.update({"real/truncated": 1})
    assert Account.from_json(account.as_json()) == account


def test_attempts_of_an_earlier_run_are_not_made_again(tmp_path):
    settings = config(attempts=2)
    (request,) = requests(prepare(tmp_path / "first", many(1), settings)[2])
    failed = attempt(request.id, status="failed", error="truncated", finish_reason="length", letter=None)
    work, plan, _ = prepare(tmp_path, many(1), settings, [failed])
    engine = Scripted(lambda number, prompt, paths: "Hm.")
    (account,) = settle(work, plan, engine)
    assert account.made == 1
    assert engine.asked[0][2] == request.seed(1)


def test_an_answer_is_read_with_the_options_as_they_were_shown(tmp_path):
    work, plan, _ = prepare(tmp_path, many(1), config(num_rationales=1))
    (pending,) = read_batch(plan.path, 0)
    ((request, _),) = pending.requests
    turned = dataclasses.replace(request, options=("press", "die cast", "mill", "cast"))
    engine = Scripted(lambda number, prompt, paths: "It is round.\nAnswer: cast (D)")
    worker = Worker(work, "e", lambda config: engine)

    async def ask(each):
        return await worker._ask(each, 1, pending)

    with asyncio.Runner() as runner:
        assert runner.run(ask(turned)).letter == "D"
        runner.run(worker.close())


def test_what_goes_before_a_request_is_given_to_the_engine_and_nothing_where_nothing_does(tmp_path):
    work, plan, _ = prepare(tmp_path, many(1), config())
    (pending,) = read_batch(plan.path, 0)
    ((request, _),) = pending.requests
    seen = []

    class Listening(Scripted):
        async def generate(self, prompt, paths, seed, before=NOTHING):
            seen.append(before)
            return completion(ANSWER)

    turn = ExampleTurn(prompt="What?", images=request.images, image_digests=request.image_digests, answer="A")
    worker = Worker(work, "e", lambda config: Listening(None))
    with asyncio.Runner() as runner:
        for each in (request, dataclasses.replace(request, system="Be brief.", examples=(turn,), condition="blank")):
            runner.run(worker._ask(each, 1, pending))
        runner.run(worker.close())
    assert seen[0] is NOTHING
    (example,) = seen[1].examples
    assert (seen[1].system, example.prompt, example.answer) == ("Be brief.", "What?", "A")
    assert [image.digest for image in example.images] == list(request.image_digests)
