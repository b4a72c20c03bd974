"""A dry run of the flow and of its stages: what would run and what follows, and where it fails as the run would."""

import re

import pytest
from PIL import Image

from infra import command_line, journal, manifest, runner
from infra.manifest import Tally
from infra.progress import Progress
from pipelines import flow
from pipelines.records import Question, tables
from tests.pipelines.fixtures import put_images, question


def seal_all(run_dir, overrides=()):
    """Every stage of pocket as it would be sealed, without what is in it."""

    def make(task):
        if task.config.stage == "questions":
            tables.write(task.draft, Question, [question()])
            put_images(task.draft, {path: Image.new("L", (8, 8)) for path in question().images})
        (task.draft / "it").write_text(f"{task.config}{[each.digest for each in task.inputs.values()]}")
        return Tally(rows={"test": 4, "asked": 24}, metrics={"output_tokens": 240})

    for name in flow.STAGES:
        config = flow.resolve("pocket", overrides)[name]
        if not config.service:
            inputs = {read: manifest.find(run_dir / read) for read in config.inputs()}
            runner.carry_out(config, run_dir, Progress(name), inputs=inputs, run=make)


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
    follows = dict.fromkeys(("compose", "fit", "deploy", "examination", "report"), "follows")
    assert shown == upstream | {"verify": "runs"} | follows
    assert flow.describe("pocket", run_dir, ["verify.keep=2"])["stages"]["verify"]["why"] == "keep is 2"
    named = flow.for_arms("pocket", ["answer_only"])
    assert statuses(run_dir, *named)["fit"] == "up to date"  # its adapter is there
    for told in (
        "teach.expected_tokens_per_s=5",
        "examination.expected_answers_per_s=5",
        "fit.expected_examples_per_s=5",
    ):
        assert set(statuses(run_dir, told).values()) == {"up to date", "not needed"}


def test_a_dry_run_shows_only_what_the_run_would_then_do(tmp_path, monkeypatch):
    monkeypatch.setenv(journal.DRIVER_VARIABLE, "1")
    run_dir = tmp_path / "runs" / "r"
    seal_all(run_dir)
    for override in ("verify.keep=2", "examination.seed=1", "report.title=x", "questions.limit=3", "fit.seed=4"):
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
            command_line.main("teach", "pipelines", [*words, *dry])
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
