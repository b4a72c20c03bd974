import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
PACKAGES = ("pipelines", "train", "serve", "infra")
SOURCES = sorted(path for package in PACKAGES for path in (PROJECT / package).rglob("*.py"))
ENGINES = {"ray", "torch", "vllm", "deepspeed", "peft", "mlflow", "transformers"}
LIGHT = (
    "pipelines.records",
    "pipelines.inference.prompts",
    "pipelines.inference.answers",
    "pipelines.recipes",
    "pipelines.flow",
    "pipelines.verification.stage",
    "pipelines.teaching.stage",
    "pipelines.inference.worker",
    "pipelines.teaching.batch",
    "pipelines.teaching.estimate",
    "pipelines.teaching.weights",
    "pipelines.examination.estimate",
    "infra.forecast",
    "infra.forecast_table",
    "infra.config_validation",
    "pipelines.examination.stage",
    "train.recipes",
    "serve.recipes",
    "serve.catalogue",
)


@pytest.mark.parametrize("module", LIGHT)
def test_a_light_module_imports_no_engine(module):
    script = f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    shown = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=PROJECT
    ).stdout
    assert not ENGINES & set(shown.split())


def test_folders_are_packages_all_the_way_down():
    missing = {path.parent for path in [*SOURCES, *(PROJECT / "tests").rglob("*.py")]}
    assert [str(folder) for folder in missing if not (folder / "__init__.py").is_file()] == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PROJECT)))
def test_modules_and_functions_keep_their_size_and_say_what_they_are(path):
    tree = ast.parse(path.read_text())
    if path.name != "__init__.py":
        assert ast.get_docstring(tree), "the first line of a module says its arrow"
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert [f.name for f in functions if f.end_lineno - f.lineno >= 60] == []
    assert path.read_text().count("\n") <= 350


def _module_name(path: Path) -> str:
    return ".".join(path.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__init__")


def _imports() -> dict[str, set[str]]:
    """Module -> the modules of ours that it imports, also inside its functions."""
    paths = {_module_name(path): path for path in SOURCES}
    found: dict[str, set[str]] = {}
    for module, path in paths.items():
        named: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                named |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                full = {alias.name: f"{node.module}.{alias.name}" for alias in node.names}
                named |= {name if name in paths else str(node.module) for name in full.values()}
        found[module] = named & paths.keys() - {module}
    return found


def _reached(module: str, imports: dict[str, set[str]]) -> set[str]:
    """All modules that a module imports, directly or through others."""
    reached: set[str] = set()
    waiting = [module]
    while waiting:
        new = imports[waiting.pop()] - reached
        reached |= new
        waiting += new
    return reached


def test_no_module_imports_in_a_circle_lazy_imports_included():
    imports = _imports()
    assert len(imports) > 100
    assert {module for module in imports if module in _reached(module, imports)} == set()


def test_no_module_of_a_stage_imports_the_flow():
    assert [module for module, imported in _imports().items() if "pipelines.flow" in imported] == []


def test_tests_mirror_the_tree():
    folders = {path.parent.relative_to(PROJECT / "tests") for path in (PROJECT / "tests").rglob("test_*.py")}
    own = {Path("flow"), Path("house"), Path("benchmarks")}
    assert [str(folder) for folder in folders - own if not (PROJECT / folder).is_dir()] == []


def test_the_reading_tour_of_the_readme_names_files_that_exist():
    readme = (PROJECT / "README.md").read_text()
    tour, _, walks = readme.partition("## Reading tour")[2].partition("\n## ")[0].partition("\nThree walks")
    named = re.findall(r"`([\w/.]+\.(?:py|md))`", tour)
    assert 5 <= len(named) <= 10
    walked = re.findall(r"`([\w/.]+\.py)`", walks)
    assert len(walked) >= 3
    assert [name for name in [*named, *walked] if not (PROJECT / name).is_file()] == []


def test_the_readme_s_make_targets_exist():
    readme, makefile = (PROJECT / "README.md").read_text(), (PROJECT / "Makefile").read_text()
    targets = set(re.findall(r"^([\w-]+):", makefile, flags=re.MULTILINE))
    assert set(re.findall(r"`make ([\w-]+)", readme)) <= targets


def test_make_s_help_names_every_target_and_no_other():
    makefile = (PROJECT / "Makefile").read_text()
    shown = subprocess.run(["make"], capture_output=True, text=True, check=True, cwd=PROJECT).stdout
    targets = set(re.findall(r"^([\w-]+):", makefile, flags=re.MULTILINE))
    assert set(re.findall(r"^ +make ([\w-]+)", shown, flags=re.MULTILINE)) == targets - {"help"}
    assert set(re.search(r"^\.PHONY: (.*)", makefile, flags=re.MULTILINE)[1].split()) == targets


def test_a_commit_is_checked_by_the_commands_of_make_check():
    recipe = re.search(r"^check: .*\n\t@(.*)", (PROJECT / "Makefile").read_text(), flags=re.MULTILINE)[1]
    hooks = re.findall(r"entry: \.venv/bin/(.*)", (PROJECT / ".pre-commit-config.yaml").read_text())
    assert hooks == recipe.split(" && ")


def test_every_entry_point_turns_telemetry_and_prompt_logs_off_before_an_engine_is_imported():
    clean = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME")}
    script = "import os, json, infra.stage; print(json.dumps(dict(os.environ)))"
    shown = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=PROJECT, env=clean
    )
    environment = json.loads(shown.stdout)
    assert environment["RAY_USAGE_STATS_ENABLED"] == environment["RAYLLM_ENABLE_REQUEST_PROMPT_LOGS"] == "0"
    assert environment["VLLM_NO_USAGE_STATS"] == environment["DO_NOT_TRACK"] == environment["HF_HUB_OFFLINE"] == "1"
    assert environment["MLFLOW_DISABLE_TELEMETRY"] == "true"


LOADERS = {
    "from_pretrained",
    "EngineArgs",
    "AsyncEngineArgs",
    "LLM",
    "LLMConfig",
    "vLLMEngineProcessorConfig",
    "pipeline",
}


def loading_calls(path: Path) -> list[ast.Call]:
    """Calls that load a model, processor, tokenizer or config; PEFT's take no code, and no such word."""
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    named = {call: getattr(call.func, "attr", getattr(call.func, "id", "")) for call in calls}
    peft = {call for call in calls if ast.unparse(call.func).startswith("PeftModel.")}
    return [call for call in calls if named[call] in LOADERS and call not in peft]


def refuses_code(call: ast.Call) -> bool:
    """Whether the call itself says trust_remote_code=False, as a word or in a dict of arguments."""
    said = [(word.arg, word.value) for word in call.keywords]
    for inner in ast.walk(call):
        if isinstance(inner, ast.Dict):
            said += [(getattr(key, "value", None), value) for key, value in zip(inner.keys, inner.values, strict=True)]
    return any(name == "trust_remote_code" and getattr(value, "value", None) is False for name, value in said)


def test_every_call_that_loads_a_model_says_that_no_code_of_it_is_run():
    calls = {path: loading_calls(path) for path in [*SOURCES, *(PROJECT / "tests").rglob("*.py")]}
    assert sum(map(len, calls.values())) > 8
    unsaid = [f"{path}:{call.lineno}" for path, found in calls.items() for call in found if not refuses_code(call)]
    assert unsaid == []


def test_no_duration_is_taken_from_a_clock_that_can_be_set():
    telling = re.compile(r"\btime\.time\(|\bdatetime\b.*\bnow\(|\butcnow\(")
    found = {str(path.relative_to(PROJECT)) for path in SOURCES if telling.search(path.read_text())}
    # The day of a model's card, and the age of files, whose times are by that clock too.
    assert found == {"serve/api/ingress.py", "infra/leftovers.py"}


def test_ray_is_started_in_one_place_which_keeps_it_on_loopback():
    starting = [str(path.relative_to(PROJECT)) for path in SOURCES if re.search(r"\bray\.init\(", path.read_text())]
    assert starting == ["infra/cluster.py"]


@pytest.mark.slow
def test_torchvision_imports_beside_this_torch():
    subprocess.run([sys.executable, "-c", "import torchvision.transforms.v2"], check=True, capture_output=True)


@pytest.mark.parametrize("profile", ["cpu", "gpu"])
def test_every_direct_dependency_is_pinned_in_the_profile_s_constraints(profile):
    import tomllib

    pinned = {}
    for line in (PROJECT / f"infra/environment/constraints-{profile}.txt").read_text().splitlines():
        name, equals, version = line.partition("==")
        if equals:
            pinned[name.lower().replace("_", "-")] = version.partition("+")[0]
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"][profile]]
    for requirement in wanted:
        name, _, version = re.sub(r"\[.*?\]", "", requirement).partition("==")
        assert name.lower() in pinned, name
        assert version in ("", pinned[name.lower()]), requirement
