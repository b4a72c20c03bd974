"""A model folder may name code of its own, which transformers and vLLM offer to run."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
CODE = """
import pathlib
pathlib.Path({marker!r}).write_text("ran")
from transformers import PretrainedConfig as Config, PreTrainedModel as Model
from transformers import PreTrainedTokenizerFast as Tokenizer, ProcessorMixin as Processor
"""
ITS_OWN = {"model_type": "own", "tokenizer_class": "Own", "processor_class": "Own"}
LOADS = {
    "the estimate": "from pipelines.teaching import estimate; estimate._processor(model)",
    "a student": "from train import student; student.load(model, 'fp32')",
    "a student's config": "from train import student; student.read_config(model)",
    "the merge": "from train.merge import merge; merge(adapter, adapter / 'out', model)",
    "the teacher's engine": (
        "from pipelines.recipes import pocket; from pipelines.inference.backends import vllm_engine; "
        "vllm_engine.start_vllm(model, pocket().teach.engine)"
    ),
}
NEED_NO_CODE = ("the estimate", "a student")
# One after the other in one process: the engines are imported once.
LOAD_ALL = """
import contextlib, io, json, pathlib, sys
from infra import command_line, privacy
privacy.silence()
answers = []
for code, model, adapter in json.loads(sys.stdin.readline()):
    said, end = io.StringIO(), 0
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), command_line.reporting_errors("x"):
            exec(code, {"model": model, "adapter": pathlib.Path(adapter)})
    except SystemExit as exit:
        end = exit.code
    answers.append([end, said.getvalue()])
print(json.dumps(answers))
"""


@dataclasses.dataclass(frozen=True)
class Loaded:
    """How a load of the model in `folder` ended, and what was said."""

    folder: Path
    code: int
    said: str

    @property
    def ran(self) -> bool:
        """Whether code of the model's own was run."""
        return (self.folder / "marker").exists()


def model_with_code(folder: Path, **changes) -> Path:
    """A folder of the pocket teacher, whose files also name classes in a module beside them, and of an adapter."""
    model = folder / "model"
    shutil.copytree(PROJECT / "train/pocket/teacher", model)
    code = CODE.format(marker=str(folder / "marker"))
    (model / "own.py").write_text(code)
    (model / "custom_generate").mkdir()
    (model / "custom_generate/generate.py").write_text(code)
    names = {"AutoConfig": "own.Config", "AutoModel": "own.Model", "AutoModelForImageTextToText": "own.Model"}
    names |= {"AutoProcessor": "own.Processor", "AutoTokenizer": ["own.Tokenizer", "own.Tokenizer"]}
    for name in ("config.json", "tokenizer_config.json", "processor_config.json"):
        stated = json.loads((model / name).read_text())
        (model / name).write_text(json.dumps(stated | {"auto_map": names} | changes))
    (folder / "adapter").mkdir()
    (folder / "adapter/adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(model)}))
    return folder


@pytest.fixture(scope="module")
def loaded(tmp_path_factory) -> dict[tuple[str, bool], Loaded]:
    """By what loads, and whether the model can be loaded by its own code alone."""
    asked = {(what, True): ITS_OWN for what in LOADS} | {(what, False): {} for what in NEED_NO_CODE}
    folders = {each: model_with_code(tmp_path_factory.mktemp("model"), **changes) for each, changes in asked.items()}
    requests = [(LOADS[what], str(folder / "model"), str(folder / "adapter")) for (what, _), folder in folders.items()]
    done = subprocess.run(
        [sys.executable, "-c", LOAD_ALL],
        input=json.dumps(requests) + "\n" + "y\n" * 200,
        capture_output=True, text=True, check=False, cwd=PROJECT, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    answers = json.loads(done.stdout.splitlines()[-1])
    return {each: Loaded(folder, *answer) for (each, folder), answer in zip(folders.items(), answers, strict=True)}


@pytest.mark.parametrize("what", LOADS)
def test_a_model_that_only_its_own_code_could_load_is_one_clear_error_and_runs_nothing(loaded, what):
    done = loaded[what, True]
    assert not done.ran
    assert "[y/N]" not in done.said
    assert done.code == 1
    assert done.said.splitlines()[-1].startswith("x: error: ")
    assert str(done.folder / "model") in done.said.splitlines()[-1]
    assert "Traceback" not in done.said, done.said


@pytest.mark.parametrize("what", NEED_NO_CODE)
def test_a_model_that_needs_no_code_of_its_own_is_loaded_without_what_it_brings(loaded, what):
    done = loaded[what, False]
    assert done.code == 0, done.said
    assert not done.ran
    assert "[y/N]" not in done.said
