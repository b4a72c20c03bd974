import json
import re
import subprocess
import sys
from itertools import pairwise

import pytest

from infra import command_line, forecast, manifest, runner
from infra.figures import Figure
from infra.manifest import Tally
from pipelines.inference import ledger
from pipelines.inference.ledger import Ledger
from pipelines.inference.logprobs import TopTokens, row_of
from pipelines.recipes import POCKET_TEACHER
from pipelines.teaching import estimate
from pipelines.teaching.estimate import ASSUMED, MEASURED, RECIPE, qwen3_vl_tokens
from pipelines.teaching.requests import inference, request_set
from tests.pipelines.fixtures import put_questions
from tests.pipelines.teaching.fixtures import attempt, config, many, picture, requests, write

# What the pocket teacher's engine counted for such a question and an image of 96 x 96 pixels, and for it without one.
WITH_IMAGE, WITHOUT_IMAGE = 52, 41
OPTIONS = ("mill", "cast", "spin", "forge")


def put(run_dir, num, size=(96, 96)):
    asked = many(num, options=OPTIONS)
    return put_questions(run_dir, asked, {q.images[0]: picture(q.images[0]).resize(size) for q in asked})


@pytest.fixture
def run_dir(tmp_path):
    return tmp_path / "runs" / "r"


def asking(settings, run_dir):
    folder = ledger.place_of(ledger.root_of(settings.ledger, run_dir), inference(settings))
    return request_set(settings, inference(settings), run_dir / "questions"), folder


def test_prompts_of_the_pocket_teacher_are_counted_as_its_engine_counts_them(run_dir):
    put(run_dir, 40)
    said = config(grounding_share=0.5).estimate(run_dir)
    made, folder = asking(config(grounding_share=0.5), run_dir)
    # Without their images, all these questions are the same request.
    each = {request.id: WITH_IMAGE if request.images else WITHOUT_IMAGE for request in requests(made)}
    assert said["requests"]["open"] == len(each)
    assert said["prompt_tokens"]["longest"] == WITH_IMAGE
    assert said["prompt_tokens"]["all"] == pytest.approx(sum(each.values()), rel=0.05)
    assert said["prompt_tokens"]["from"] == MEASURED
    assert not folder.exists()


def test_what_the_ledger_settles_costs_nothing_any_more(run_dir):
    put(run_dir, 10)
    settings = config(num_rationales=3, rationalise=True)
    made, folder = asking(settings, run_dir)
    plain = [request for request in requests(made) if not request.hinted]
    write(folder, [attempt(request.id) for request in plain[:20]])
    said = settings.estimate(run_dir)
    assert said["questions"] == {"open": 4, "of": 10, "from": MEASURED}
    assert said["requests"] == {"open": 10, "of": 30, "hinted_at_most": 3, "from": MEASURED}
    assert said["prompt_tokens"]["all"] == pytest.approx(10 * WITH_IMAGE, rel=0.05)
    write(folder, [attempt(request.id) for request in plain[20:]], "e-001")
    said = settings.estimate(run_dir)
    assert said["questions"]["open"] == said["requests"]["open"] == said["output_tokens"]["all"] == 0
    assert "prompt_tokens" not in said


def test_rationales_are_as_long_as_those_in_the_ledger_once_there_are_enough(run_dir):
    put(run_dir, 2)
    settings = config(max_tokens=200, expected_output_tokens=150)
    _, folder = asking(settings, run_dir)
    assert settings.estimate(run_dir)["output_tokens"] == {"mean": 150, "all": 300, "from": RECIPE}
    write(folder, [attempt(f"{number:016x}" * 2, num_output_tokens=90) for number in range(49)])
    assert settings.estimate(run_dir)["output_tokens"]["from"] == RECIPE
    write(folder, [attempt(f"{number:016x}" * 2, num_output_tokens=90) for number in range(49, 60)], "e-001")
    assert settings.estimate(run_dir)["output_tokens"] == {"mean": 90, "all": 180, "from": MEASURED}
    short = config(max_tokens=40, expected_output_tokens=150)
    assert short.estimate(run_dir)["output_tokens"] == {"mean": 40, "all": 80, "from": RECIPE}


def test_hours_are_those_of_all_engines_and_say_what_they_rest_on(run_dir):
    put(run_dir, 9)
    engine = type(config().engine)(replicas=2, gpus=4)
    settings = config(engine=engine, max_tokens=1000, expected_output_tokens=1000, expected_tokens_per_s=2.5)
    said = settings.estimate(run_dir)
    assert said["hours"] == Figure(0.5, "9,000 tokens written / 2.5 a second (from the recipe) / 2 engine(s)")
    assert said["room"] is None  # the model's own length is not known here
    read = said["prompt_tokens"]["all"]
    assert said["tokens"].value == pytest.approx(9000 + read, abs=9)
    assert said["tokens"].why.startswith(f"9 requests x ({read / 9:.0f} tokens read, measured by the tokenizer")
    unknown = config().estimate(run_dir)["hours"]
    assert unknown.value is None
    assert "no speed is measured yet: --set teach.expected_tokens_per_s=" in unknown.why


def test_gpu_hours_are_of_the_gpus_that_our_own_engines_hold(run_dir):
    put(run_dir, 9)
    settings = {"max_tokens": 1000, "expected_output_tokens": 1000, "expected_tokens_per_s": 2.5}
    engine = type(config().engine)(replicas=2, gpus=4)

    def row(**changes):
        stages = {"teach": config(engine=engine, **settings, **changes)}
        return forecast.forecast("r", run_dir, stages, gpu_hour_price=2.5)["stages"]["teach"]

    own, elsewhere = row(), row(teacher="gone", endpoint="http://127.0.0.1:1/v1")
    assert own["gpu_hours"] == {"value": 4.0, "why": "8 GPUs for so many hours"}
    assert own["price"] == {"value": 10.0, "why": "2.5 a GPU-hour"}
    assert elsewhere["hours"]["value"] == 0.5
    assert elsewhere["gpu_hours"]["value"] == elsewhere["price"]["value"] == 0


def test_likeliest_tokens_are_counted_on_disk_as_they_are_stored(run_dir):
    put(run_dir, 1)
    written = {"max_tokens": 1000, "expected_output_tokens": 1000}
    plain, kept = (config(top_logprobs=k, **written).estimate(run_dir)["disk_gib"].value for k in (0, 8))
    stored = TopTokens.of("v", range(1000), [1] * 9000, [0.0] * 9000, 8).as_json()
    in_ledger = len(json.dumps(stored))
    in_table = sum(len(getattr(row_of("r", stored), name)) for name in ("written", "tokens", "logprobs"))
    assert (kept - plain) * (1 << 30) == pytest.approx(in_ledger + in_table, rel=0.02)


@pytest.mark.parametrize(("num_tokens", "origin", "speed"), [(60_000, MEASURED, 800.0), (1_000, RECIPE, 5.0)])
def test_the_speed_of_the_same_engines_is_taken_where_it_was_measured_long_enough(run_dir, num_tokens, origin, speed):
    put(run_dir, 1)
    settings = config(expected_tokens_per_s=5.0)

    def seal(of):
        with manifest.draft(run_dir / "rationales") as draft:
            figures = {"tokens_per_s": 800.0, "output_tokens_now": num_tokens}
            origin = runner.made_from(of, "rationales", {"questions": manifest.find(run_dir / "questions")})
            manifest.seal(
                draft,
                run_dir / "rationales",
                stage="teach",
                made_from=origin,
                tally=Tally(metrics=figures),
                seconds=1,
            )

    seal(settings)
    assert f" / {speed:,.1f} a second ({origin})" in settings.estimate(run_dir)["hours"].why
    seal(config(engine=type(settings.engine)(replicas=3)))
    assert f" / 5.0 a second ({RECIPE})" in settings.estimate(run_dir)["hours"].why


def test_requests_that_leave_an_answer_too_little_room_are_counted(run_dir):
    put(run_dir, 8)
    fits = config(max_tokens=512 - WITH_IMAGE).estimate(run_dir)["room"]
    assert fits == {"for_a_prompt": 52, "longest_prompt": 52, "too_long": 0, "of": 8, "from": RECIPE}
    said = config(max_tokens=512 - WITH_IMAGE + 1).estimate(run_dir)
    assert said["room"]["too_long"] == 8
    assert "8 of 8 prompts leave an answer less than teach.max_tokens=461: raise" in said["notes"][-1]


def test_without_a_tokenizer_at_hand_the_numbers_are_said_to_be_assumed(run_dir):
    put(run_dir, 4, size=(640, 480))
    said = config(teacher="nobody/nothing").estimate(run_dir)["prompt_tokens"]
    (request, *_) = requests(asking(config(teacher="nobody/nothing"), run_dir)[0])
    assert said["mean"] == -(-len(request.prompt) // 4) + 20 * 15
    assert said["from"] == ASSUMED
    assert "no tokenizer of nobody/nothing is on this machine" in said["by"]


@pytest.mark.parametrize(
    ("size", "num_tokens"),
    [
        ((96, 96), 64),
        ((256, 256), 64),
        ((640, 480), 300),
        ((1024, 1024), 1024),
        ((9000, 9000), 16384),
        ((2000, 10), 114),
    ],
)
def test_an_image_takes_as_many_tokens_as_qwen3_vl_s_own_processor_says(size, num_tokens):
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

    width, height = size
    high, wide = smart_resize(height, width, factor=32, min_pixels=256 * 256, max_pixels=4096 * 4096)
    assert qwen3_vl_tokens(width, height) == high * wide // 32**2 == num_tokens


def test_a_sample_is_spread_over_all_that_is_open(run_dir, tmp_path):
    put(run_dir, 600)
    made, folder = asking(config(), run_dir)
    plan = made.write_plan(Ledger(folder), tmp_path / "plan.arrow")
    sample = estimate._sample(plan)
    numbers = [int(question.requests[0][0].images[0].split("/")[-1].removesuffix(".png")) for question in sample]
    assert len(set(numbers)) == 256
    assert numbers == sorted(numbers)
    assert max(later - earlier for earlier, later in pairwise(numbers)) <= 16
    assert (min(numbers), max(numbers)) == (pytest.approx(0, abs=16), pytest.approx(599, abs=16))


def test_nothing_is_counted_while_the_questions_are_not_sealed_and_what_to_type_is_said(run_dir):
    said = config().estimate(run_dir)
    assert {name: said[name].value for name in ("tokens", "hours", "disk_gib")} == dict.fromkeys(
        ("tokens", "hours", "disk_gib")
    )
    assert f"python -m pipelines.questions RECIPE --run-dir {run_dir}" in said["hours"].why


def test_what_a_dry_run_is_told_to_expect_makes_nothing_again():
    told = config(expected_tokens_per_s=5.0, expected_output_tokens=7).outputs()["rationales"]
    assert told == config(expected_output_tokens=9).outputs()["rationales"]


@pytest.mark.slow
def test_dry_runs_of_the_stage_and_of_the_flow_show_it_and_need_no_ray(run_dir):
    put(run_dir, 4)
    before = sorted(run_dir.parent.rglob("*"))
    script = (
        "import sys; from pipelines import flow; flow.main(sys.argv[1:]);"
        "print(sorted({'ray', 'vllm'} & set(sys.modules)), file=sys.stderr)"
    )
    shown = subprocess.run(
        [sys.executable, "-c", script, "pocket", "--run-dir", str(run_dir), "--dry-run", "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(shown.stdout)["stages"]["teach"]["details"]["prompt_tokens"]["mean"] == WITH_IMAGE
    assert shown.stderr.splitlines()[-1] == "[]"
    assert sorted(run_dir.parent.rglob("*")) == before


def test_a_stage_s_dry_run_shows_its_estimate(run_dir, capsys):
    put(run_dir, 4)
    command_line.main("teach", "pipelines", ["pocket", "--run-dir", str(run_dir), "--dry-run", "--json"])
    details = json.loads(capsys.readouterr().out)["stages"]["teach"]["details"]
    assert details["prompt_tokens"]["by"] == f"8 requests, the tokenizer and image processor of {POCKET_TEACHER}"
    command_line.main("teach", "pipelines", ["pocket", "--run-dir", str(run_dir), "--dry-run"])
    assert re.search(r"^teach +runs \(new\) +1 +0 +\d", capsys.readouterr().out, flags=re.MULTILINE)
