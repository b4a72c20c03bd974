"""A model folder may name code of its own, which transformers and vLLM offer to run."""

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
LOADS = {
    "the estimate": "from pipelines.teaching import estimate; estimate._processor(sys.argv[1])",
    "a student": "from train import student; student.load(sys.argv[1], 'fp32')",
    "a student's config": "from train import student; student.read_config(sys.argv[1])",
    "the merge": (
        "from train.merge import merge; merge(pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[2], 'out'), sys.argv[1])"
    ),
    "the teacher's engine": (
        "from pipelines.recipes import pocket; from pipelines.inference.backends import vllm_engine; "
        "vllm_engine.start_vllm(sys.argv[1], pocket().teach.engine)"
    ),
}


def model_with_code(folder: Path, marker: Path, **changes) -> Path:
    """The pocket teacher, whose files also name classes in a module beside them."""
    shutil.copytree(PROJECT / "train/pocket/teacher", folder)
    (folder / "own.py").write_text(CODE.format(marker=str(marker)))
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate/generate.py").write_text(CODE.format(marker=str(marker)))
    names = {"AutoConfig": "own.Config", "AutoModel": "own.Model", "AutoModelForImageTextToText": "own.Model"}
    names |= {"AutoProcessor": "own.Processor", "AutoTokenizer": ["own.Tokenizer", "own.Tokenizer"]}
    for name in ("config.json", "tokenizer_config.json", "processor_config.json"):
        stated = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(stated | {"auto_map": names} | changes))
    return folder


def load(what: str, model: Path, adapter: Path):
    script = (
        "import pathlib, sys; from infra import command_line, privacy; privacy.silence()\n"
        f"with command_line.reporting_errors('x'):\n    {LOADS[what]}"
    )
    return subprocess.run(
        [sys.executable, "-c", script, str(model), str(adapter)],
        input="y\n" * 20, capture_output=True, text=True, check=False, cwd=PROJECT, timeout=120,
    )  # fmt: skip


@pytest.mark.parametrize("what", LOADS)
def test_a_model_that_only_its_own_code_could_load_is_one_clear_error_and_runs_nothing(tmp_path, what):
    changes = {"model_type": "own", "tokenizer_class": "Own", "processor_class": "Own"}
    model = model_with_code(tmp_path / "model", tmp_path / "marker", **changes)
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter/adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(model)}))
    done = load(what, model, tmp_path / "adapter")
    assert not (tmp_path / "marker").exists()
    assert "[y/N]" not in done.stdout + done.stderr
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("x: error: ")
    assert str(model) in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr, done.stderr


@pytest.mark.parametrize("what", ["the estimate", "a student"])
def test_a_model_that_needs_no_code_of_its_own_is_loaded_without_what_it_brings(tmp_path, what):
    model = model_with_code(tmp_path / "model", tmp_path / "marker")
    done = load(what, model, tmp_path)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "marker").exists()
    assert "[y/N]" not in done.stdout + done.stderr
