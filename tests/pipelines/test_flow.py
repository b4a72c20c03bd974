import contextlib
import json
import os
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest

from infra import command_line, manifest, run_lock, runner
from infra.errors import ConfigError
from pipelines import flow
from pipelines.records import ARMS, TAUGHT, Arm

PROJECT = Path(__file__).parents[2]


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
        ('examination.plan=["multi_task/real"]', r"reads adapters/multi_task, which no .* --arms multi_task$"),
        (
            "examination.max_tokens=4097",
            "examination.max_tokens is 4097, and the endpoint takes 4096: --set deploy.max_answer",
        ),
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
    assert [config[name]["arms"] for name in ("fit", "deploy", "report")] == [arms] * 3
    # The recipe's other arm decides still which questions these ones learn.
    assert config["compose"]["arms"] == [*arms, "answer_only"]
    assert config["fit"]["compared_arms"] == ["answer_only"]
    assert config["examination"]["plan"] == [
        "zero_shot/real",
        "rationale_then_answer/real",
        "rationale_then_answer/blank",
        "rationale_then_answer/shuffled",
        "teacher/real",
        "multi_task/real",
    ]


def test_the_number_of_seeds_of_the_whole_flow_is_named_once_and_every_adapter_is_examined(tmp_path, capsys):
    flow.main(["pocket", "--run-dir", str(tmp_path), "--seeds", "2", "--dry-run", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert [told["config"][name]["seeds"] for name in ("fit", "deploy", "examination")] == [2] * 3
    adapters = {f"adapters/{arm}{end}" for arm in ARMS for end in ("", "-seed1")}
    assert adapters < {path.removeprefix(f"{tmp_path}/") for path in told["writes"]}
    configs = flow.resolve("pocket", flow.for_seeds(2))
    assert adapters == {name for name in configs["examination"].inputs() if name.startswith("adapters/")}
    assert flow.resolve("pocket", flow.for_seeds(1)) == flow.resolve("pocket", [])


def test_named_arms_keep_all_of_their_entries_whatever_words_these_ask_in():
    plan = ["zero_shot+rationale/real", "answer_only+circular/real", "rationale_then_answer+letter/real"]
    assert flow._plan_for(plan, ["answer_only", "multi_task"]) == [*plan[:2], "multi_task/real"]


def test_the_recipe_s_own_arms_named_are_the_recipe():
    assert flow.resolve("pocket", flow.for_arms("pocket", ARMS)) == flow.resolve("pocket", [])


@pytest.mark.parametrize("overrides", [[], ['examination.plan=["multi_task/blank"]']])
def test_every_arm_can_be_taught_served_and_examined_and_a_plan_of_one_s_own_holds(tmp_path, overrides):
    described = flow.describe("pocket", tmp_path, [*flow.for_arms("pocket", TAUGHT), *overrides])
    assert {f"{made}/{arm}" for made in ("examples", "adapters") for arm in TAUGHT} < {
        path.removeprefix(f"{tmp_path}/") for path in described["writes"]
    }
    examined = {entry.partition("/")[0] for entry in described["config"]["examination"]["plan"]}
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


@pytest.mark.parametrize(("own", "said"), [(True, "draw is not needed"), (False, "draw is up to date")])
def test_what_is_not_drawn_is_not_said_to_be_up_to_date(tmp_path, monkeypatch, capsys, own, said):
    monkeypatch.setattr(flow.journal, "recorder", lambda *_: contextlib.nullcontext(None))
    monkeypatch.setattr(flow, "_is_pending", lambda *_: False)
    flow.run("pocket", tmp_path, [f"questions.folder={tmp_path}"] if own else [])
    assert f"flow: {said}\n" in capsys.readouterr().out


@pytest.mark.parametrize("recipe", ["pocket", "pmc_vqa_8xh200"])
def test_only_the_pocket_models_may_fail_at_every_question(recipe):
    configs = flow.resolve(recipe, [])
    assert (configs["teach"].max_failed_share == 1) == (configs["verify"].min_accepted == 0) == (recipe == "pocket")


def test_another_prompt_makes_every_stage_that_shows_it_run_again(monkeypatch):
    from pipelines.inference import prompts

    config = flow.resolve("pocket", [])["teach"]
    artifact = manifest.Artifact(None, types.SimpleNamespace(digest="d"))
    before = runner.made_from(config, "rationales", {"questions": artifact})
    monkeypatch.setitem(prompts._INSTRUCTIONS, "teacher", "Tell me.")
    assert manifest.key(runner.made_from(config, "rationales", {"questions": artifact})) != manifest.key(before)


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


def test_a_flow_in_a_folder_that_is_in_use_starts_nothing_and_says_who_has_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(flow, "_job_runner", lambda *_: pytest.fail("a cluster was started"))
    for command in (flow.main, report_alone):
        with run_lock.held(tmp_path, "the flow mine", print), pytest.raises(SystemExit):
            command(["pocket", "--run-dir", str(tmp_path)])
        (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
        assert f"error: {tmp_path} is in use by the flow mine, process {os.getpid()} of " in line
        assert list(tmp_path.iterdir()) == []


def report_alone(arguments):
    command_line.main("draw", "pipelines", arguments)


def test_a_flow_with_nothing_left_to_do_needs_no_lock_and_a_failed_one_leaves_none(tmp_path, monkeypatch):
    monkeypatch.setattr(flow, "_is_pending", lambda *_: False)
    with run_lock.held(tmp_path, "another flow", print):
        flow.run("pocket", tmp_path, [])
    monkeypatch.setattr(flow, "_is_pending", lambda name, *_: name == "fit")
    monkeypatch.setattr(flow, "_job_runner", lambda *_: contextlib.nullcontext(lambda *_: 1 / 0))
    with pytest.raises(ZeroDivisionError):
        flow.run("pocket", tmp_path, [])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--questions", "4"], "--questions 4: .* Add --rehearse, or for a run of few questions: --limit 4"),
        (["--rehearse", "--questions", "0"], "--questions 0: how many a rehearsal takes of each split, at least 1"),
        (["--rehearse", "--dry-run"], "choose one of them"),
        (["--arms", "multi_task", "multi_task", "--dry-run"], "multi_task is named twice"),
        (["--seeds", "0", "--dry-run"], r"fit\.seeds=0"),
        (["--set", "deploy.host=0.0.0.0", "--dry-run"], "needs a key: export PRECEPTOR_API_KEY="),
    ],
)
def test_words_that_do_not_go_together_end_the_flow_before_anything_starts(tmp_path, capsys, monkeypatch, words, said):
    monkeypatch.delenv("PRECEPTOR_API_KEY", raising=False)
    with pytest.raises(SystemExit) as ended:
        flow.main(["pocket", "--run-dir", str(tmp_path / "r"), *words])
    assert ended.value.code == 1
    assert re.search(said, capsys.readouterr().err)
    assert list(tmp_path.iterdir()) == []


def test_a_run_folder_that_is_a_file_is_told_by_a_dry_run_too(tmp_path, capsys):
    (tmp_path / "r").touch()
    with pytest.raises(SystemExit):
        flow.main(["pocket", "--run-dir", str(tmp_path / "r"), "--dry-run"])
    assert "r: that is no folder" in capsys.readouterr().err


def test_a_dry_run_ends_without_a_word_where_its_reader_has_seen_enough():
    told = {"a": "b" * 1000}
    code = (
        f"import os, time; from infra import forecast_table; time.sleep(1); forecast_table.show({told}, as_json=True)"
    )
    reading, writing = os.pipe()
    os.close(reading)
    told = subprocess.run(
        [sys.executable, "-c", code], stdout=writing, stderr=subprocess.PIPE, cwd=PROJECT, check=False
    )
    os.close(writing)
    assert (told.returncode, told.stderr) == (0, b"")


@pytest.mark.parametrize(("found", "code"), [([], 0), (["teach: too small"], 1)])
def test_a_rehearsal_s_exit_code_says_whether_anything_was_found(tmp_path, monkeypatch, found, code):
    asked = []
    monkeypatch.setattr(flow, "rehearse", lambda *given: asked.append(given) or found)
    with pytest.raises(SystemExit) as ended:
        flow.main(["pocket", "--run-dir", str(tmp_path), "--rehearse", "--set", "teach.seed=1"])
    assert ended.value.code == code
    assert asked == [("pocket", tmp_path, ["teach.seed=1"], 16)]
