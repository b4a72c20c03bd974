"""Every command of the project says of itself what can be typed."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
_PARSES = re.compile(r"ArgumentParser\(|command_line\.main\(|command\.main\(|argument_parser\(")
WITHOUT_HELP = {"infra.environment.setup", "infra.tracking"}  # started by make, and by a process of ours
OF_THEIR_OWN = [  # words that begin a command with a usage of its own
    ("pipelines.questions", "check"),
    ("pipelines.questions", "pmc_vqa"),
    ("pipelines.questions", "matcha"),
    ("pipelines.teaching.batch", "export"),
    ("pipelines.teaching.batch", "import"),
]
# Python's own way to start a module, for one after the other in one process: engines are imported once.
_ASK_ALL = """
import contextlib, io, json, runpy, sys
answers = []
for module, *words in json.load(sys.stdin):
    sys.argv = [module, *words, "--help"]
    said, code = io.StringIO(), None
    try:
        with contextlib.redirect_stdout(said):
            runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code
    answers.append([code, " ".join(said.getvalue().split())])
json.dump(answers, sys.stdout)
"""


def _started_modules() -> dict[str, str]:
    """Name -> text of every module that may be started by `python -m`."""
    found = {}
    for folder in ("infra", "pipelines", "train", "serve", "tests"):
        for path in sorted((PROJECT / folder).rglob("*.py")):
            text = path.read_text()
            if re.search(r'^if __name__ == "__main__":', text, re.MULTILINE):
                name = ".".join(path.relative_to(PROJECT).with_suffix("").parts)
                found[name.removesuffix(".__main__")] = text
    return found


COMMANDS = [*((name,) for name, text in _started_modules().items() if _PARSES.search(text)), *OF_THEIR_OWN]


@pytest.fixture(scope="module")
def helps() -> dict[tuple[str, ...], str]:
    asked = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _ASK_ALL],
        input=json.dumps(COMMANDS),
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert asked.returncode == 0, asked.stderr
    answers = dict(zip(COMMANDS, json.loads(asked.stdout), strict=True))
    assert {command: code for command, (code, _) in answers.items() if code != 0} == {}
    return {command: said for command, (_, said) in answers.items()}


def test_every_module_that_can_be_started_has_a_help_or_is_named_here():
    shipped = {name for name in _started_modules() if not name.startswith("tests.")}
    assert shipped - {name for name, *_ in COMMANDS} == WITHOUT_HELP


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_usage_line_can_be_typed(command, helps):
    assert helps[command].startswith(f"usage: python -m {command[0]} ")


@pytest.mark.slow
def test_the_help_of_the_endpoint_has_wait_and_that_of_the_questions_the_other_commands(helps):
    assert "--wait serve until Ctrl-C" in helps["serve.app",]
    assert "`check PATH`" in helps["pipelines.questions",]


def _typed_in_the_readme() -> list[tuple[str, list[str]]]:
    """Module and words of each `python -m` in the README's blocks, comments left out."""
    blocks = "\n".join((PROJECT / "README.md").read_text().split("```")[1::2])
    lines = (line.partition("  #")[0] for line in blocks.splitlines())
    return [(module, rest.split()) for line in lines for module, rest in re.findall(r"python -m (\S+)(.*)", line)]


@pytest.mark.slow
def test_what_the_readme_types_is_understood(helps):
    typed = [(module, words) for module, words in _typed_in_the_readme() if (module,) in helps]
    assert len(typed) >= 8
    for module, words in typed:
        own = [command for command in helps if command == (module, *words[: len(command) - 1])]
        help_of_it = helps[max(own, key=len)]
        options = [word.strip("[]").partition("=")[0] for word in words if word.strip("[]").startswith("--")]
        assert [option for option in options if option not in help_of_it] == [], (module, words)


@pytest.mark.slow
def test_ray_understands_what_the_readme_has_it_do():
    typed = re.findall(
        r"^ray (start|stop|get-auth-token)(.*?)(?:  #.*)?$", (PROJECT / "README.md").read_text(), re.MULTILINE
    )
    assert typed
    for verb, rest in typed:
        asked = subprocess.run(["ray", verb, "--help"], capture_output=True, text=True, check=True)
        for option in re.findall(r"--[a-z-]+", rest):
            assert option in asked.stdout, (verb, option)
