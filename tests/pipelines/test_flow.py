import contextlib
import json
import os
import re
import types

import pytest

from infra import journal, manifest, stage
from infra.errors import ConfigError
from pipelines import flow, tables
from pipelines.records import TAUGHT, Arm, Question
from pipelines.settings import ARMS
from tests.pipelines.fixtures import question


def test_a_stage_s_command_carries_only_its_own_overrides(tmp_path):
    overrides = ["teach.seed=1", "fit.num_steps=3", "verify.keep=2", "deploy.port=9"]
    configs = flow.resolve("pocket", overrides)
    words = flow._command(configs["verify"], "pocket", tmp_path, overrides)[-2:]
    assert words == ["--set", "verify.keep=2"]
    command = flow._command(configs["fit"], "pocket", tmp_path, overrides)
    assert command == ["-m", "train.fit", "pocket", "--run-dir", str(tmp_path), "--set", "fit.num_steps=3"]


def test_a_dry_run_prints_config_digest_hardware_and_paths_and_writes_nothing(tmp_path, capsys):
    flow.main(["pocket", "--run-dir", str(tmp_path / "r"), "--limit", "5", "--dry-run", "--json"])
    printed = json.loads(capsys.readouterr().out)
    assert printed["config"]["questions"]["limit"] == 5
    assert printed["pending"] == list(printed["stages"]) == list(flow.STAGES)
    assert printed["stages"]["fit"]["resources"] == "2 workers: 1 CPU each"
    assert str(tmp_path / "r/adapters/answer_only") in printed["writes"]
    assert len(printed["config_digest"]) == 64
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_override_stops_the_flow_before_anything_starts(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        flow.main(["pocket", "--run-dir", str(tmp_path / "r"), "--set", "teach.temprature=1"])
    assert stop.value.code == 1
    assert "Did you mean 'temperature'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_missing_model_folder_stops_the_flow_before_anything_starts(tmp_path, capsys):
    with pytest.raises(SystemExit):
        flow.main(["pocket", "--run-dir", str(tmp_path / "r"), "--set", "teach.teacher=/nowhere/teacher"])
    assert "teach.teacher: there is nothing at '/nowhere/teacher'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_recipe_without_drawn_questions_has_no_draw_stage(tmp_path):
    configs = flow.resolve("pmc_vqa_8xh200", [])
    assert configs["draw"] is None
    assert not flow._is_pending("draw", configs, tmp_path)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ('compose.arms=["answer_only"]', "fit reads examples/rationale_then_answer, which no stage before it makes"),
        ("compose.arms=[]", "name at least one arm of answer_only, rationale_then_answer"),
        ('fit.arms=["answer_only", "teacher"]', "name at least one arm of answer_only, .*, and no other"),
        ('report.arms=["fast"]', "allowed is one of .*multi_task"),
        ('examine.plan=["multi_task/real"]', r"reads adapters/multi_task, which no .* --arms multi_task$"),
        ("examine.max_tokens=4097", "examine.max_tokens is 4097, and the endpoint takes 4096: --set deploy.max_answer"),
        ("questions.max_pixels=9000000", "endpoint takes 4194304: --set deploy.max_image_pixels=9000000"),
        ('deploy.arms=["answer_only"]', "asks adapters/rationale_then_answer, which deploy does not serve"),
        ("questions.folder=tests", r"questions\.folder=tests: jobs run in another folder"),
        ("questions.folder=no/where", r"questions\.folder: there is nothing at 'no/where'"),
        ("fit.base=./none", r"fit\.base: there is nothing at '\./none'"),
    ],
)
def test_a_flow_that_could_not_reach_its_end_is_refused_at_once(tmp_path, capsys, override, message):
    with pytest.raises(SystemExit):
        flow.main(["pocket", "--run-dir", str(tmp_path / "r"), "--set", override])
    assert re.search(message, capsys.readouterr().err)
    assert list(tmp_path.iterdir()) == []


def test_the_arms_of_the_whole_flow_are_named_once(tmp_path, capsys):
    arms = ["multi_task", "rationale_then_answer"]
    flow.main(["pocket", "--run-dir", str(tmp_path), "--arms", *arms, "--dry-run", "--json"])
    config = json.loads(capsys.readouterr().out)["config"]
    assert [config[name]["arms"] for name in ("compose", "fit", "deploy", "report")] == [arms] * 4
    assert config["examine"]["plan"] == [
        "zero_shot/real",
        "rationale_then_answer/real",
        "rationale_then_answer/blank",
        "rationale_then_answer/shuffled",
        "teacher/real",
        "multi_task/real",
    ]


def test_the_recipe_s_own_arms_named_are_the_recipe():
    assert flow.resolve("pocket", flow.for_arms("pocket", ARMS)) == flow.resolve("pocket", [])


@pytest.mark.parametrize("overrides", [[], ['examine.plan=["multi_task/blank"]']])
def test_every_arm_can_be_taught_served_and_examined_and_a_plan_of_one_s_own_holds(tmp_path, overrides):
    described = flow.describe("pocket", tmp_path, [*flow.for_arms("pocket", TAUGHT), *overrides])
    assert {f"{made}/{arm}" for made in ("examples", "adapters") for arm in TAUGHT} < {
        path.removeprefix(f"{tmp_path}/") for path in described["writes"]
    }
    examined = {entry.partition("/")[0] for entry in described["config"]["examine"]["plan"]}
    assert examined == ({"multi_task"} if overrides else set(Arm))


def test_a_dry_run_finds_arms_that_contradict_each_other(tmp_path, capsys):
    with pytest.raises(SystemExit):
        flow.main(["pocket", "--run-dir", str(tmp_path), "--dry-run", "--set", 'compose.arms=["answer_only"]'])
    assert "--arms answer_only rationale_then_answer" in capsys.readouterr().err


def test_to_distil_what_the_teacher_does_not_keep_is_refused_before_anything_runs(tmp_path):
    with pytest.raises(ConfigError, match=r"distillation_weight is 0\.5, .* --set teach\.top_logprobs=8"):
        flow.describe("pocket", tmp_path, ["fit.distillation_weight=0.5"])
    assert flow.describe("pocket", tmp_path, ["fit.distillation_weight=0.5", "teach.top_logprobs=8"])


def test_pocket_questions_are_not_drawn_for_questions_of_the_world(tmp_path):
    assert flow._is_pending("draw", flow.resolve("pocket", []), tmp_path)
    assert not flow._is_pending("draw", flow.resolve("pocket", [f"questions.folder={tmp_path}"]), tmp_path)


def test_another_prompt_makes_every_stage_that_shows_it_run_again(monkeypatch):
    from pipelines import prompts

    config = flow.resolve("pocket", [])["teach"]
    artifact = manifest.Artifact(None, types.SimpleNamespace(digest="d"))
    before = stage.made_from(config, "rationales", {"questions": artifact})
    monkeypatch.setitem(prompts._INSTRUCTIONS, "teacher", "Tell me.")
    assert manifest.key(stage.made_from(config, "rationales", {"questions": artifact})) != manifest.key(before)


def test_recipes_of_the_flow_have_the_same_names_in_all_packages_and_students_have_more_of_their_own():
    from infra import recipes

    pipelines, train, serve = (set(recipes.known_recipes(package)) for package in ("pipelines", "train", "serve"))
    assert pipelines == serve < train
    with pytest.raises(ConfigError):
        flow.resolve("qwen3_vl_2b_1x32gb", [])
    with pytest.raises(ConfigError):
        flow.resolve("no_such", [])


def test_a_flow_removes_what_a_killed_one_left_and_starts_the_recorder_again_for_each_stage(tmp_path, monkeypatch):
    left = tmp_path / ".credentials-1"
    left.touch(mode=0o600)
    os.utime(left, (0, 0))
    said = []
    recorder = types.SimpleNamespace(start=lambda: said.append("recorder"))
    monkeypatch.setattr(flow.journal, "recorder", lambda *_: contextlib.nullcontext(recorder))
    monkeypatch.setattr(flow, "_job_runner", lambda *_: contextlib.nullcontext(lambda name, _: said.append(name)))
    monkeypatch.setattr(flow, "_is_pending", lambda name, *_: name in ("verify", "fit"))
    flow.run("pocket", tmp_path, [])
    assert said == ["recorder", "verify", "recorder", "fit"]
    assert list(tmp_path.iterdir()) == []


def seal_all(run_dir, overrides=()):
    """Every stage of pocket as it would be sealed, without what is in it."""
    from infra.manifest import Tally
    from infra.progress import Progress

    def make(task):
        if task.config.stage == "questions":
            tables.write(task.draft, Question, [question()])
        (task.draft / "it").write_text(f"{task.config}{[each.digest for each in task.inputs.values()]}")
        return Tally(rows={"test": 4, "asked": 24}, figures={"output_tokens": 240})

    for name in flow.STAGES:
        config = flow.resolve("pocket", overrides)[name]
        for output in config.outputs() if not config.service else ():
            inputs = {read: manifest.find(run_dir / read) for read in config.inputs()}
            stage.make(config, output, run_dir / output, run_dir, inputs, Progress(name), run=make)


def statuses(run_dir, *overrides):
    rows = flow.describe("pocket", run_dir, list(overrides))["stages"]
    return {name: row["status"] for name, row in rows.items()}


def test_a_dry_run_lists_what_follows_from_a_stage_that_is_out_of_date(tmp_path, monkeypatch):
    monkeypatch.setenv(journal.DRIVER_VARIABLE, "1")
    run_dir = tmp_path / "runs" / "r"
    seal_all(run_dir)
    assert set(statuses(run_dir).values()) == {"up to date", "not needed"}
    shown = statuses(run_dir, "verify.keep=2")
    upstream = dict.fromkeys(("draw", "questions", "teach"), "up to date")
    follows = dict.fromkeys(("compose", "fit", "deploy", "examine", "report"), "follows")
    assert shown == upstream | {"verify": "runs"} | follows
    assert flow.describe("pocket", run_dir, ["verify.keep=2"])["stages"]["verify"]["why"] == "keep is 2"
    named = flow.for_arms("pocket", ["answer_only"])
    assert statuses(run_dir, *named)["fit"] == "up to date"  # its adapter is there
    for told in ("teach.expected_tokens_per_s=5", "examine.expected_answers_per_s=5", "fit.expected_examples_per_s=5"):
        assert set(statuses(run_dir, told).values()) == {"up to date", "not needed"}


def test_a_dry_run_shows_only_what_the_run_would_then_do(tmp_path, monkeypatch):
    monkeypatch.setenv(journal.DRIVER_VARIABLE, "1")
    run_dir = tmp_path / "runs" / "r"
    seal_all(run_dir)
    for override in ("verify.keep=2", "examine.seed=1", "report.title=x", "questions.limit=3", "fit.seed=4"):
        configs = flow.resolve("pocket", [override])
        now = [name for name in flow.STAGES if flow._is_pending(name, configs, run_dir)]
        shown = statuses(run_dir, override)
        assert [name for name in flow.STAGES if shown[name] == "runs"] == now
        seal_all(run_dir, [override])  # as the run does
        assert set(statuses(run_dir, override).values()) == {"up to date", "not needed"}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("questions.folder=/no/where", r"questions\.folder: there is nothing at '/no/where'"),
        ("teach.teacher=/no/where", r"teach\.teacher: there is nothing at '/no/where'"),
        ("fit.base=./none", r"fit\.base: there is nothing at '\./none'"),
        ("questions.folder=tests", r"questions\.folder=tests: jobs run in another folder"),
    ],
)
def test_a_dry_run_fails_where_the_run_would_fail_at_once(tmp_path, capsys, override, message):
    for json_too in ([], ["--json"]):
        with pytest.raises(SystemExit) as ended:
            flow.main(["pocket", "--run-dir", str(tmp_path / "r"), "--dry-run", *json_too, "--set", override])
        assert ended.value.code == 1
        shown = capsys.readouterr()
        assert re.search(message, shown.err)
        assert shown.out == ""
    assert list(tmp_path.iterdir()) == []


def test_a_stage_alone_fails_its_dry_run_as_its_run(tmp_path, capsys):
    words = ["pocket", "--run-dir", str(tmp_path / "r"), "--set", "teach.teacher=/no/where"]
    for dry in (["--dry-run"], []):
        with pytest.raises(SystemExit):
            stage.main("teach", "pipelines", [*words, *dry])
        assert "teach.teacher: there is nothing at '/no/where'" in capsys.readouterr().err


def test_people_see_the_table_and_a_price_of_their_own(tmp_path, capsys):
    words = ["pmc_vqa_8xh200", "--run-dir", str(tmp_path / "r"), "--dry-run", "--set", f"questions.folder={tmp_path}"]
    flow.main([*words, "--gpu-hour-price", "2.5"])
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 100
    assert len(shown.splitlines()) < 60
    assert "made for 1 node of 96 CPUs and 8 GPUs" in shown
    assert re.search(r"^teach +runs \(new\) +8 +8 +\? +\? +\? +\? +\?$", shown, flags=re.MULTILINE)
    assert "2 teacher engines: 4 CPUs and 4 GPUs each" in shown
    told = " ".join(shown.split())
    assert "weights take 54.7 GiB on each of 4 GPUs (assumed: 235 billion numbers, as its name says, of 1 byte)" in told
    assert "--set fit.expected_examples_per_s=EXAMPLES" in told
    for price, code in (("-1", 1), ("nan", 1), ("dear", 2)):
        with pytest.raises(SystemExit) as ended:
            flow.main([*words, f"--gpu-hour-price={price}"])
        assert ended.value.code == code
        assert "--gpu-hour-price" in capsys.readouterr().err


def test_words_of_a_dry_run_are_refused_without_one(capsys):
    with pytest.raises(SystemExit):
        flow.main(["pocket", "--json"])
    assert "add --dry-run" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--questions", "4"], ["--rehearse", "--questions", "0"]])
def test_questions_of_a_rehearsal_are_a_number_and_a_rehearsal_s(tmp_path, capsys, words):
    with pytest.raises(SystemExit):
        flow.main(["pocket", "--run-dir", str(tmp_path / "r"), *words])
    assert "how many a rehearsal takes of each split" in capsys.readouterr().err


@pytest.mark.parametrize(("found", "code"), [([], 0), (["teach: too small"], 1)])
def test_a_rehearsal_s_exit_code_says_whether_anything_was_found(tmp_path, monkeypatch, found, code):
    asked = []
    monkeypatch.setattr(flow, "rehearse", lambda *given: asked.append(given) or found)
    with pytest.raises(SystemExit) as ended:
        flow.main(["pocket", "--run-dir", str(tmp_path), "--rehearse", "--set", "teach.seed=1"])
    assert ended.value.code == code
    assert asked == [("pocket", tmp_path, ["teach.seed=1"], 16)]
