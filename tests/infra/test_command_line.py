"""How a command reads its words, and how it ends: by an error, a signal, or a terminal that is closed."""

import argparse
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from infra import command_line
from infra.errors import InputError


def test_a_user_s_error_is_printed_without_a_traceback_and_exits_1(capsys):
    with pytest.raises(SystemExit) as stop, command_line.reporting_errors("first"):
        raise InputError("no such table")
    assert stop.value.code == 1
    assert capsys.readouterr().err == "first: error: no such table\n"


def test_a_user_s_error_is_found_inside_an_engine_s_wrapping(capsys):
    def wrapped():
        try:
            raise InputError("bad image")
        except InputError as error:
            raise RuntimeError("task failed in a worker") from error

    with pytest.raises(SystemExit), command_line.reporting_errors("first"):
        wrapped()
    assert capsys.readouterr().err == "first: error: bad image\n"


def test_an_unexpected_error_shows_its_traceback_and_its_innermost_cause(capsys):
    with pytest.raises(SystemExit), command_line.reporting_errors("first"):
        raise KeyError("surprise")
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert shown.endswith("first: error: KeyError: 'surprise'\n")


PROJECT = Path(__file__).parents[2]
STAYS = """
import signal, sys, time
from infra import command_line
if sys.argv[1] == "ignored":
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
with command_line.reporting_errors("first"):
    command_line.interrupt_on_sigterm()
    print("ready", flush=True)
    sys.stdin.readline()
    print("went on", flush=True)
"""


@pytest.mark.parametrize(
    ("name", "how", "ends_with"),
    [("SIGTERM", "", 130), ("SIGHUP", "", 130), ("SIGINT", "", 130), ("SIGHUP", "ignored", 0)],
)
def test_a_polite_kill_or_a_closed_terminal_ends_a_stage_as_ctrl_c_does_unless_nohup_keeps_it(name, how, ends_with):
    with subprocess.Popen(
        [sys.executable, "-c", STAYS, how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(getattr(signal, name))
        _, said = process.communicate("\n" if ends_with == 0 else None, timeout=60)
    assert process.returncode == ends_with
    assert said == ("" if ends_with == 0 else "first: interrupted; what was sealed is kept\n")


@pytest.mark.parametrize("named", ["runs/../mine", "./runs/a/../../mine", "link/../mine"])
def test_a_run_folder_has_one_name_whatever_way_leads_to_it(tmp_path, monkeypatch, named):
    (tmp_path / "runs" / "a").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "runs" / "a")
    monkeypatch.chdir(tmp_path)
    where = tmp_path / "runs" if named.startswith("link") else tmp_path  # as the system goes up from where a link leads
    assert command_line.run_directory(argparse.Namespace(run_dir=named, recipe="pocket")) == where / "mine"


def test_a_link_to_a_run_folder_stays_its_name(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)
    named = str(tmp_path / "link" / "r")
    assert command_line.run_directory(argparse.Namespace(run_dir=named, recipe="pocket")) == Path(named)


def test_the_help_of_a_package_s_command_names_the_package_and_says_its_first_line(tmp_path):
    package = tmp_path / "explaining"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(
        '"""Question -> rationale. [edge]\n\nMore."""\n'
        "from infra import command_line\n"
        "command_line.main('explain', 'pipelines')\n"
    )
    said = subprocess.run(
        [sys.executable, "-m", "explaining", "--help"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(PROJECT)])},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert said.startswith("usage: python -m explaining [-h]")
    assert "Question -> rationale. This is the stage `explain` of a recipe, by itself." in " ".join(said.split())
