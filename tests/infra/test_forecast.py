"""What a dry run says of a run folder: what would run, what follows from it, and what it costs."""

import dataclasses
import importlib
import re
import sys
from pathlib import Path
from typing import ClassVar

import pytest

from infra import forecast, forecast_table, journal, manifest, materials, runner
from infra.errors import ArtifactError, InputError
from infra.figures import Figure, figure, total
from infra.manifest import Tally
from infra.progress import Progress
from infra.resources import ClusterShape, Workers
from infra.stage import StageConfig, Task


def run(task: Task) -> Tally:
    (task.draft / "words").write_text("/".join(each.digest for each in task.inputs.values()) + repr(task.config))
    return Tally()


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReadConfig(StageConfig):
    stage: ClassVar[str] = "read"
    module: ClassVar[str] = __name__
    limit: int = 1
    file: str | None = None

    def outputs(self):
        return {"rows": self}

    def materials(self):
        return {"file": self.file} if self.file else {}


@dataclasses.dataclass(frozen=True, kw_only=True)
class WriteConfig(StageConfig):
    stage: ClassVar[str] = "write"
    module: ClassVar[str] = __name__
    arms: tuple[str, ...] = ("a", "b")
    words: int = 5

    def outputs(self):
        return {f"books/{arm}": dataclasses.replace(self, arms=(arm,)) for arm in self.arms}

    def inputs(self):
        return ("rows",)

    def resources(self):
        return (Workers(what="writers", count=2, cpus=8, gpus=4),)

    def estimate(self, run_dir, makes=(), cluster=None):
        memory = cluster.gpu_memory_gib if cluster else None
        return {"tokens": figure(1_500_000 * len(makes), "counted"), "memory": memory, "notes": ["it is tight"]}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServeConfig(StageConfig):
    stage: ClassVar[str] = "serve"
    module: ClassVar[str] = __name__
    service: ClassVar[bool] = True

    def outputs(self):
        return {"endpoint": self}

    def inputs(self):
        return ("books/a", "books/b")

    def resources(self):
        return (Workers(what="engines", count=2, gpus=1), Workers(what="teachers", gpus=4))


@dataclasses.dataclass(frozen=True, kw_only=True)
class AskConfig(StageConfig):
    stage: ClassVar[str] = "ask"
    module: ClassVar[str] = __name__

    def outputs(self):
        return {"answers": self}

    def inputs(self):
        return ("rows", "books/a")

    def estimate(self, run_dir, makes=(), cluster=None):
        return {"hours": Figure(None, "no speed is measured yet: --set ask.speed=N")}


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    monkeypatch.setenv(journal.DRIVER_VARIABLE, "1")  # bringing journals into MLflow takes seconds each time
    monkeypatch.setitem(sys.modules, __name__, importlib.import_module(__name__))


def stages(read=None, write=None, **more):
    return {
        "draw": None,
        "read": ReadConfig(**(read or {})),
        "write": WriteConfig(**(write or {})),
        "serve": ServeConfig(),
        "ask": AskConfig(),
    } | more


def make(run_dir: Path, of, *names) -> None:
    for name in names:
        runner.carry_out(of[name], run_dir, Progress(name))


@pytest.fixture
def run_dir(tmp_path):
    made = tmp_path / "runs" / "r"
    make(made, stages(), "read", "write", "ask")
    return made


def told(run_dir, of, **how):
    """Stage -> status and why."""
    rows = forecast.forecast("r", run_dir, of, **how)["stages"]
    return {name: (row["status"], row["why"]) for name, row in rows.items()}


def test_in_an_empty_folder_everything_runs_and_nothing_is_written(tmp_path):
    assert told(tmp_path / "r", stages()) == {
        "draw": ("not needed", ""),
        "read": ("runs", "not made yet"),
        "write": ("runs", "not made yet"),
        "serve": ("runs", "ask asks it"),
        "ask": ("runs", "not made yet"),
    }
    assert list(tmp_path.iterdir()) == []


def test_what_is_up_to_date_does_not_run_and_what_nobody_asks_is_not_served(run_dir):
    assert told(run_dir, stages()) == {
        "draw": ("not needed", ""),
        "read": ("up to date", ""),
        "write": ("up to date", ""),
        "serve": ("not needed", "ask has nothing to ask"),
        "ask": ("up to date", ""),
    }
    assert forecast.forecast("r", run_dir, stages())["pending"] == []


def test_a_stage_that_is_out_of_date_makes_all_that_rest_on_it_follow(run_dir):
    of = stages(read={"limit": 2})
    assert told(run_dir, of) == {
        "draw": ("not needed", ""),
        "read": ("runs", "limit is 2"),
        "write": ("follows", "rests on rows"),
        "serve": ("follows", "ask asks it"),
        "ask": ("follows", "rests on books/a, rows"),
    }
    assert forecast.forecast("r", run_dir, of)["pending"] == ["read", "write", "serve", "ask"]


def test_one_output_of_several_makes_only_what_rests_on_it_follow(run_dir):
    (run_dir / "books/b" / "manifest.json").unlink()
    said = told(run_dir, stages())
    assert said["write"] == ("runs", "books/b: not made yet")
    assert said["ask"] == ("up to date", "")
    assert forecast.forecast("r", run_dir, stages())["stages"]["write"]["makes"] == ["books/b"]
    both = told(run_dir, stages(write={"words": 7}))
    assert both["write"] == ("runs", "books/a: words is 7; books/b: not made yet")
    assert both["ask"] == ("follows", "rests on books/a")


def test_what_was_made_again_since_is_said_and_what_would_run_does_run(run_dir):
    of = stages(read={"limit": 2})
    make(run_dir, of, "read")
    assert told(run_dir, of)["write"] == ("runs", "rows was made again")
    make(run_dir, of, "write", "ask")
    assert forecast.forecast("r", run_dir, of)["pending"] == []


def test_another_material_contract_or_prompt_is_said(run_dir, tmp_path, monkeypatch):
    (tmp_path / "f").write_text("x")
    of = stages(read={"file": str(tmp_path / "f")})
    make(run_dir, of, "read", "write", "ask")
    assert told(run_dir, of)["read"] == ("up to date", "")
    materials.content_digest.cache_clear()
    (tmp_path / "f").write_text("y")
    assert told(run_dir, of)["read"] == ("runs", "another file")
    monkeypatch.setattr(WriteConfig, "contract", 2)
    monkeypatch.setattr(AskConfig, "prompt_digests", lambda self: {"instruction": "else"})
    said = told(run_dir, of)
    assert said["write"] == ("runs", "this version makes it otherwise")
    assert said["ask"] == ("runs", "the prompt instruction changed")
    materials.content_digest.cache_clear()
    (tmp_path / "f").unlink()
    with pytest.raises(InputError, match=r"read\.file: there is nothing at"):
        told(run_dir, of)


def test_a_stage_alone_says_what_it_lacks(tmp_path):
    alone = {"write": WriteConfig()}
    assert told(tmp_path / "r", alone) == {"write": ("waits", "it needs rows, which no stage has made yet")}
    assert told(tmp_path / "r", {"serve": ServeConfig()})["serve"] == ("runs", "it is started each time")


def test_inputs_that_do_not_rest_on_one_another_are_refused_as_the_run_refuses_them(run_dir):
    make(run_dir, stages(read={"limit": 2}), "read")
    with pytest.raises(ArtifactError, match="Run the stage write again"):
        told(run_dir, {"ask": AskConfig()})
    with pytest.raises(ArtifactError, match="Run the stage write again"):
        make(run_dir, stages(), "ask")
    assert told(run_dir, stages(read={"limit": 2}))["ask"][0] == "runs"  # what it reads is made again before it


def test_an_artifact_that_was_changed_is_refused_as_the_run_refuses_it(run_dir):
    (run_dir / "rows/words").write_text("longer than it was when it was sealed, by far" * 9)
    with pytest.raises(ArtifactError, match="words"):
        told(run_dir, stages())


def test_every_number_says_where_it_is_from_and_the_sums_say_what_they_lack(run_dir):
    last = manifest.find(run_dir / "rows").manifest
    of = stages(read={"limit": 2})
    shape = ClusterShape(cpus=96, gpus=8, gpu_memory_gib=80)
    said = forecast.forecast("r", run_dir, of, cluster=shape, gpu_hour_price=2.5)
    rows = said["stages"]
    assert rows["read"]["hours"] == {
        "value": pytest.approx(last.seconds / 3600, 0.01),
        "why": "as long as the last time",
    }
    held = sum(file["bytes"] for file in last.files.values())
    assert rows["read"]["disk_gib"] == {"value": pytest.approx(held / 2**30, 0.01), "why": "as much as the last time"}
    assert rows["read"]["gpu_hours"] == {"value": 0, "why": "it asks for no GPU"}
    write = rows["write"]
    assert (write["cpus"], write["gpus"], write["tokens"]["value"]) == (16, 8, 3_000_000)
    assert write["gpu_hours"]["value"] == pytest.approx(8 * write["hours"]["value"], rel=0.01)
    assert write["price"]["value"] == pytest.approx(2.5 * write["gpu_hours"]["value"], rel=0.01)
    assert (write["details"], write["notes"]) == ({"memory": 80}, ["it is tight"])
    assert rows["ask"]["hours"] == {"value": None, "why": "no speed is measured yet: --set ask.speed=N"}
    assert rows["serve"]["hours"] is None  # they are those of what asks it
    assert (rows["serve"]["gpus"], rows["serve"]["gpu_hours"]) == (6, rows["ask"]["hours"])
    assert said["total"]["tokens"] == {"value": 3_000_000, "why": "the sum"}
    assert said["total"]["hours"]["why"] == "the sum of what is known; 1 more are not"


def test_numbers_that_are_not_known_are_never_made_up(tmp_path):
    rows = forecast.forecast("r", tmp_path / "r", stages())["stages"]
    assert rows["read"]["hours"] == {"value": None, "why": "not run in this folder yet, so nothing is measured"}
    assert rows["write"]["price"] == {"value": None, "why": "no price of a GPU-hour is given: --gpu-hour-price PRICE"}


def test_sums():
    assert total([]) == Figure(0, "the sum")
    assert total([Figure(None, "x")]) == Figure(None, "no part of it is known")
    assert total([figure(1.23456, "x"), figure(2, "y")]) == Figure(3.23, "the sum")


def test_the_json_has_the_names_that_are_documented(run_dir):
    said = forecast.forecast("r", run_dir, stages(read={"limit": 2}))
    assert list(said) == [
        "format",
        "recipe",
        "run_dir",
        "config",
        "config_digest",
        "cluster",
        "gpu_hour_price",
        "pending",
        "stages",
        "total",
        "writes",
    ]
    assert said["format"] == 1
    names = ["status", "why", "makes", "resources", "cpus", "gpus", *forecast.FIGURES, "notes", "details"]
    assert [list(row) for row in said["stages"].values()] == [names] * 5
    assert list(said["total"]) == list(forecast.FIGURES)
    assert said["writes"] == [f"{run_dir}/{name}" for name in ("rows", "books/a", "books/b", "endpoint", "answers")]
    documented = forecast.__doc__ + forecast.forecast.__doc__
    assert [name for name in (*said, *names) if name not in documented] == []


def lines(said):
    """A table, whose lines fit all but its title, which is as long as the run folder's path."""
    shown = forecast_table.table(said)
    assert max(map(len, shown.splitlines()[1:])) <= 100
    return shown


def test_people_get_a_table_that_fits_into_100_columns(run_dir):
    said = forecast.forecast("r" * 20, run_dir, stages(read={"limit": 2}), gpu_hour_price=2.5)
    shown = lines(said)
    assert re.search(r"^stage +CPUs +GPUs +tokens +hours +GPU-hours +GiB +price$", shown, re.MULTILINE)
    assert re.search(r"^draw +not needed( +-){5}$", shown, re.MULTILINE)
    assert re.search(r"^read +runs +1 +0 +- +(-|< 0.001) +- +< 0.001 +-\n +limit is 2$", shown, re.MULTILINE)
    assert re.search(
        r"^write +follows +16 +8 +3 M .*\n +rests on rows; 2 writers: 8 CPUs and 4 GPUs each$", shown, re.M
    )
    assert re.search(r"^ask +follows +1 +0 +- +\? +- ", shown, re.MULTILINE)
    assert re.search(r"^all +3 M +\? +\? +\? +\?$", shown, re.MULTILINE)  # a part of each other sum is not known
    assert "GPU-hours, price of serve; hours of ask: no speed is measured yet: --set ask.speed=N" in " ".join(
        shown.split()
    )
    assert "write: it is tight" in shown
    assert shown.endswith(
        "read, write, serve, ask would run; nothing was. All of it, with the resolved config: --json."
    )


def test_a_table_of_an_empty_folder_and_of_one_that_is_up_to_date(tmp_path, run_dir):
    shown = lines(forecast.forecast("r", tmp_path / "none", stages()))
    assert re.search(r"^write +runs \(new\) ", shown, re.MULTILINE)
    assert "price" not in shown.partition("what the numbers")[0]
    assert "Its price: --gpu-hour-price PRICE." in " ".join(shown.split())
    idle = lines(forecast.forecast("r", run_dir, stages()))
    assert "Nothing would run: all is up to date" in idle
    assert "what the numbers rest on" not in idle


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "-"),
        (None, "?"),
        (0.0004, "< 0.001"),
        (0.0123, "0.0123"),
        (12.34, "12.3"),
        (999, "999"),
        (1234, "1.23 K"),
        (412_000_000, "412 M"),
        (1.5e13, "15,000 G"),
    ],
)
def test_numbers_are_short(value, shown):
    assert forecast_table._number({"value": value}) == shown
