import argparse
import dataclasses
import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from infra import command_line, recipes
from infra.config_validation import validated
from infra.errors import ConfigError
from pipelines import flow
from pipelines.inference.backends.engine_config import EngineConfig
from pipelines.records import Arm

PROJECT = Path(__file__).parents[2]
ALL = flow.PACKAGES


def resolved(*overrides):
    return recipes.resolve("pocket", ALL, overrides)


def test_an_unknown_recipe_lists_the_known_ones_with_the_nearest():
    with pytest.raises(ConfigError, match=r"'pockt'.*Did you mean 'pocket'\?.*Known: .*pocket"):
        recipes.resolve("pockt", ALL)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("teach.temperature=hot", r"^--set teach\.temperature=hot: allowed is a number of at least 0$"),
        ("teach.temperature=-1", r"^--set teach\.temperature=-1: allowed is a number of at least 0$"),
        ("teach.top_p=2", r"allowed is a number above 0 and of at most 1$"),
        ("teach.num_rationales=true", r"teach\.num_rationales=true: allowed is a whole number above 0$"),
        ('teach.num_rationales="2"', r'teach\.num_rationales="2": allowed is a whole number above 0$'),
        ("teach.top_logprobs=21", r"allowed is a whole number from 0 to 20$"),
        ("teach.rationalise=maybe", r"allowed is true or false$"),
        ("fit.warmup_share=1", r"allowed is a number of at least 0 and below 1$"),
        ("fit.precision=fp16", r"fit\.precision=fp16: allowed is one of fp32, bf16$"),
        ("verify.selection=frist", r"allowed is one of first, shortest, most_agreed, diverse$"),
        ("examination.plan=teacher/real", r"""allowed is a list such as \["...", "..."\], each text$"""),
        (
            'questions.sources=[{"split": "tarin"}]',
            r"""questions\.sources\[0\]\.split='tarin': allowed is one of train,""",
        ),
        ('questions.sources=[{"tabel": "x"}]', r"sources\[0\]\.tabel: there is no such field.*Did you mean 'table'"),
        ("teach.engine=5", r"teach\.engine=5: allowed is EngineConfig\(...\), with the fields replicas, cpus,"),
        ("teach.temprature=1", r"no field 'temprature'.*Did you mean 'temperature'"),
        ("teech.temperature=1", r"temperature is a field of teach: --set teach\.temperature=1$"),
        ("teech.temprature=1", r"'teech' is no stage.*Did you mean 'teach'"),
        ("teach.lora_rank=8", r"^--set teach\.lora_rank: lora_rank is a field of fit: --set fit\.lora_rank=8$"),
        ("lora_rank=8", r"^--set lora_rank: lora_rank is a field of fit: --set fit\.lora_rank=8$"),
        ("fit.cpus=2", r"cpus is a field of .*teach\.engine, deploy\.student, deploy\.teacher: --set \S+\.cpus=2$"),
        ("engine.gpus=2", r"engine\.gpus is a field of teach: --set teach\.engine\.gpus=2$"),
        ("verify.arms=[]", r"arms is a field of compose, report, deploy, fit: --set compose\.arms=\[\]$"),
        ("teach=1", r"name a field"),
        ("teach.seed.deeper=1", r"single value"),
        ("teach.temperature", r"has no '='"),
        ("fit.learning_rate=Infinity", r"finite number"),
        ("questions.limit=0", r"questions\.limit=0: allowed is a whole number above 0, or None \(--set: null\)$"),
        ("questions.limit=1.5", r"questions\.limit=1\.5"),
        ("examination.plan=[]", "plan is empty: name at least one arm/condition"),
        ('examination.plan=["teacher/real", "teacher/real"]', "teacher/real is named twice: name it once"),
        ('fit.arms=["multi_task", "multi_task"]', "multi_task is named twice"),
        ("questions.folder=", "folder is empty: name one, or null"),
        ("teach.endpoint=ftp://x/v1", r"endpoint is 'ftp://x/v1': write its base URL, such as http://HOST:8000/v1"),
        ("teach.endpoint=host:8000", r"endpoint is 'host:8000': write its base URL, such as http://HOST:8000/v1"),
        ("cluster.gpus=8", "this recipe names no cluster; a recipe of your own can"),
        ('examination.plan=["teacher/sideways"]', r"teacher/sideways.*no arm/condition"),
        (
            'fit.arms=["rationale_first"]',
            r"fit\.arms\[0\]='rationale_first': allowed is one of .*rationale_then_answer",
        ),
        ("fit.batch_size=1", r"fit\.batch_size=1.*less than num_workers"),
    ],
)
def test_a_bad_override_names_the_path_the_value_and_what_is_allowed(override, message):
    with pytest.raises(ConfigError, match=message):
        resolved(override)


def test_overrides_reach_nested_fields_of_every_package_with_the_field_s_type():
    stages = resolved(
        "teach.engine.cpus=2", "questions.limit=12", "fit.num_steps=7", "draw.pocket.seed=3", "deploy.port=9"
    )
    assert stages["teach"].engine.cpus == 2.0
    assert stages["questions"].limit == 12
    assert stages["fit"].num_steps == 7
    assert stages["draw"].pocket.seed == 3
    assert stages["deploy"].port == 9


def test_an_override_changes_nothing_else():
    plain, changed = resolved(), resolved("teach.seed=5")
    assert {name for name in plain if plain[name] != changed[name]} == {"teach"}


def test_every_stage_of_the_flow_is_defined_by_one_package_and_frozen():
    stages = resolved()
    assert set(stages) == {*flow.STAGES, "cluster"}
    for config in (stages[name] for name in flow.STAGES):
        with pytest.raises(dataclasses.FrozenInstanceError):
            config.anything = 1


def test_a_user_s_own_file_defines_a_recipe(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        textwrap.dedent("""
        import dataclasses
        from pipelines.recipes import pocket as pipelines
        from train.recipes import pocket as train
        from serve.recipes import pocket as serve

        def small():
            parts = pipelines()
            questions = dataclasses.replace(parts.questions, limit=8)
            return {"pipelines": dataclasses.replace(parts, questions=questions), "train": train(), "serve": serve()}
        """)
    )
    assert recipes.resolve(f"{path}:small", ALL)["questions"].limit == 8
    with pytest.raises(ConfigError, match=r"no function 'smal'.*Did you mean 'small'"):
        recipes.resolve(f"{path}:smal", ALL)


def test_a_recipe_file_that_is_not_there_is_said():
    with pytest.raises(ConfigError, match=r"nowhere\.py"):
        recipes.resolve("nowhere.py:mine", ALL)


def test_all_wrong_overrides_are_told_together_and_their_order_does_not_matter():
    with pytest.raises(ConfigError) as wrong:
        resolved("teach.temperature=hot", "fit.lora_rnk=8", "fit.num_workers=64", "deploy.port=0")
    assert str(wrong.value).splitlines() == [
        "4 settings are wrong",
        "  --set teach.temperature=hot: allowed is a number of at least 0",
        *[line for line in str(wrong.value).splitlines() if "Did you mean 'lora_rank'" in line],
        "  --set fit.num_workers=64: fit: batch_size 32 is less than num_workers 64",
        "  --set deploy.port=0: deploy: port must lie between 1 and 65535",
    ]
    assert len(str(wrong.value).splitlines()) == 5
    for order in (("fit.num_workers=64", "fit.batch_size=64"), ("fit.batch_size=64", "fit.num_workers=64")):
        assert resolved(*order)["fit"].num_workers == 64


def test_a_command_of_one_stage_refuses_what_is_set_of_another_and_says_so():
    for other in ("verify.keep=2", "fit.num_steps=3"):
        with pytest.raises(
            ConfigError, match=rf"{other.partition('.')[0]} is another stage, and this command runs teach alone"
        ):
            recipes.resolve("pocket", ["pipelines"], [other], only="teach")
    assert recipes.resolve("pocket", ["pipelines"], ["teach.seed=2"], only="teach")["teach"].seed == 2
    shape = recipes.resolve("pmc_vqa_8xh200", ["pipelines"], ["cluster.nodes=2"], only="teach")["cluster"]
    assert shape.nodes == 2
    with pytest.raises(ConfigError, match=r"--set draw\.pocket: draw is a stage, and this recipe leaves it out"):
        recipes.resolve("pmc_vqa_8xh200", ALL, ["draw.pocket={}"])


def as_json(config):
    """As digests see it: 1 and 1.0 are two things there."""
    return json.dumps(dataclasses.asdict(config))


@pytest.mark.parametrize("name", sorted(recipes.known_recipes("pipelines")))
def test_a_shipped_recipe_is_right_as_a_whole_and_is_not_checked_each_time(name):
    for config in filter(None, recipes.resolve(name, ALL).values()):
        assert as_json(validated(type(config), config)) == as_json(config)
    script = f"import sys; from pipelines import flow; flow.resolve({name!r}, []); print('pydantic' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=PROJECT)
    assert shown.stdout == "False\n"


def test_shipped_students_are_right_as_a_whole():
    for made in recipes.known_recipes("train").values():
        assert as_json(validated(type(made()), made())) == as_json(made())


def own(tmp_path, body, name="mine.py"):
    """A file whose function `recipe` starts with the parts of pocket, as `part`, `train` and `serve`."""
    path = tmp_path / name
    path.write_text(
        textwrap.dedent("""
        from dataclasses import replace
        from pipelines import recipes as pipelines
        from serve import recipes as serving
        from train import recipes as training

        class Engine: pass

        def recipe():
            part, fit, deploy = pipelines.pocket(), training.pocket().fit, serving.pocket().deploy
            def parts(part=part, train=training.pocket(), serve=serving.pocket(), **more):
                return {"pipelines": part, "train": train, "serve": serve} | more
        """)
        + textwrap.indent(textwrap.dedent(body).strip(), "    ")
        + "\n"
    )
    return f"{path}:recipe"


@pytest.mark.parametrize(
    ("body", "messages"),
    [
        (
            "wrong = {'num_rationales': 0, 'temperature': 'hot', 'top_p': float('nan')}\n"
            "return parts(replace(part, teach=replace(part.teach, **wrong)))",
            [
                "teach.num_rationales=0: allowed is a whole number above 0",
                "teach.temperature='hot': allowed is a number of at least 0",
                "teach.top_p=nan: allowed is a finite number",
            ],
        ),
        (
            "return parts(replace(part, verify=replace(part.verify, keep=True, selection='frist')), "
            "training.TrainRecipe(fit=replace(fit, arms=['fast'], seed='1')))",
            [
                "verify.keep=True: allowed is a whole number above 0",
                "verify.selection='frist': allowed is one of first, shortest, most_agreed, diverse",
                "fit.seed='1': allowed is a whole number",
            ],
        ),
        ("return parts(replace(part, verify=fit))", ["verify=FitConfig(...): allowed is VerifyConfig(...), with"]),
        ("return parts(replace(part, teach=None))", ["teach=None: allowed is TeachConfig(...), with"]),
        (
            "return parts(replace(part, teach=replace(part.teach, engine={'cpus': 0, 'gpsu': 1})))",
            [
                "teach.engine.cpus=0: allowed is a whole number above 0",
                "engine.gpsu: there is no such field. Did you mean",
            ],
        ),
        ("return parts(replace(part, teach=replace(part.teach, temprature=1)))", ["line 13: TeachConfig has no field"]),
        ("return parts(replace(part, teach=replace(part.teach, temprature=1)))", ["Did you mean 'temperature'?"]),
        ("return parts(train=training.TrainRecipe(fit=training.FitConfig(bse=1)))", ["Did you mean 'base'?"]),
        (
            "return parts(train=training.TrainRecipe(fit=replace(fit, batch_size=1)))",
            ["fit: batch_size 1 is less than"],
        ),
        (
            "return parts(train=training.TrainRecipe(fit=replace(fit, batch_size='many', num_steps=0)))",
            ["fit.batch_size='many': allowed is a whole number above 0", "fit.num_steps=0: allowed is"],
        ),
        ("return parts(part.teach)", ["its part 'pipelines' is TeachConfig(...), and has to be a PipelinesRecipe"]),
        (
            "return parts(train=training.pocket)",
            ["the function pocket, which was not called", "train.recipes.pocket() makes"],
        ),
        ("return parts(serve=5)", ["its part 'serve' is 5, and has to be a ServeRecipe"]),
        (
            "return parts(trian=5)",
            ["no package is named 'trian'. A recipe returns {\"pipelines\": PipelinesRecipe(...), "],
        ),
        ("made = parts(); made.pop('train'); return made", ["it returns no part for train. A recipe returns {"]),
        ("parts()", ["returns None. A recipe returns {"]),
        ("return [parts()]", ["A recipe returns {"]),
        (
            "return parts(train={'fti': fit})",
            ["train has no stage 'fti'. Did you mean 'fit'", "fit is missing: FitConfig"],
        ),
        (
            "return parts(train={'fit': {'base': 5}})",
            ["fit.base=5: allowed is text", "fit.batch_size: it is missing; allowed"],
        ),
        ("return 1 / 0", ["line 13: ZeroDivisionError: division by zero"]),
        ("import no_such_module", ["line 13: ModuleNotFoundError: No module named 'no_such_module'"]),
        ("return parts(", ["SyntaxError"]),
    ],
)
def test_a_recipe_of_one_s_own_is_checked_as_a_whole_and_all_that_is_wrong_is_told_in_words(tmp_path, body, messages):
    with pytest.raises(ConfigError) as wrong:
        recipes.resolve(own(tmp_path, body), ALL)
    assert str(wrong.value).startswith(f"{tmp_path}/mine.py:recipe")
    for message in messages:
        assert message in str(wrong.value)
    for word in ("Annotated", "Gt(", "typing", "<class", "<Arm", "Traceback", "__init__"):
        assert word not in str(wrong.value)


def test_dicts_and_lists_stand_for_groups_of_fields_where_that_is_certain(tmp_path):
    body = """
        teach = replace(part.teach, engine={"cpus": 2, "max_num_seqs": 8})
        fit = vars(fit) | {"arms": ["answer_only"]}
        return parts({**vars(part), "teach": teach}, {"fit": fit})
    """
    stages = recipes.resolve(own(tmp_path, body), ALL)
    assert stages["teach"].engine == EngineConfig(cpus=2, max_num_seqs=8)
    assert stages["fit"] == dataclasses.replace(resolved()["fit"], arms=(Arm.ANSWER_ONLY,))
    del stages["teach"], stages["fit"]
    assert stages == {name: config for name, config in resolved().items() if name not in ("teach", "fit")}


def test_a_set_is_no_list_since_its_order_is_another_one_in_each_process(tmp_path):
    body = "return parts(replace(part, compose=replace(part.compose, arms={'answer_only'})))"
    with pytest.raises(ConfigError, match=r"compose\.arms=\{'answer_only'\}: allowed is a list such as"):
        recipes.resolve(own(tmp_path, body), ALL)


def test_what_a_recipe_of_one_s_own_names_rightly_is_left_as_it_is(tmp_path):
    assert recipes.resolve(own(tmp_path, "return parts()"), ALL) == resolved()
    changed = recipes.resolve(own(tmp_path, "return parts()"), ALL, ["fit.seed=4"])
    assert changed == resolved("fit.seed=4")


def test_a_stage_of_a_class_of_the_user_s_own_stays_of_that_class(tmp_path):
    body = """
        from dataclasses import dataclass
        from pipelines.verification.config import VerifyConfig
        @dataclass(frozen=True, kw_only=True)
        class Mine(VerifyConfig):
            extra: int = 1
            engine: Engine | None = None
            def inputs(self): return ("questions", "rationales", "more")
        return parts(replace(part, verify=Mine(keep=2)))
    """
    assert recipes.resolve(own(tmp_path, body), ALL)["verify"].inputs() == ("questions", "rationales", "more")
    assert recipes.resolve(own(tmp_path, body), ALL, ["verify.extra=3"])["verify"].extra == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("recipe = 5", "mine.py:recipe is 5, and has to be a function that returns a recipe"),
        (
            "def recipe(size, *, gpus, cpus=1): return {}",
            "mine.py:recipe asks for size, gpus, and a recipe is called with",
        ),
        ("def recipe(: return", "mine.py:recipe: line 1: SyntaxError"),
        ("", "mine.py has no function 'recipe'. Known: none."),
        ("import sys\ndef recipe(): sys.exit()", "mine.py:recipe: line 2: SystemExit"),
        ("raise SystemExit(0)", "mine.py:recipe: line 1: SystemExit: 0"),
        ("x = 1\nraise OSError('disk away')", "mine.py:recipe: line 2: OSError: disk away"),
    ],
)
def test_a_file_or_function_that_cannot_be_called_says_why(tmp_path, text, message):
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(ConfigError, match=re.escape(message)):
        recipes.resolve(f"{tmp_path}/mine.py:recipe", ALL)


def test_a_recipe_s_run_folder_is_named_by_file_and_function_and_two_files_never_share_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert recipes.run_name("pocket") == "pocket"
    assert recipes.run_name("mine.py:recipe") == "mine-recipe"
    assert recipes.run_name("./mine.py:recipe") == recipes.run_name(f"{tmp_path}/mine.py:recipe") == "mine-recipe"
    files = ["mine.py", "other.py", "a/mine.py", "b/mine.py", "a b.py", "a_b.py", "a%b.py", "mine.txt"]
    names = [recipes.run_name(f"{file}:{function}") for file in files for function in ("recipe", "other")]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[\w.-]+", name) for name in names)
    options = argparse.Namespace(run_dir=None, recipe="mine.py:recipe")
    assert command_line.run_directory(options) == tmp_path / "runs/mine-recipe"


def test_the_recipe_of_one_s_own_in_the_readme_runs_as_it_stands_there(tmp_path, monkeypatch, capsys):
    section = (PROJECT / "README.md").read_text().partition("## A recipe of your own\n")[2].partition("\n## ")[0]
    code, command = re.findall(r"```(?:python)?\n(.*?)```", section, flags=re.DOTALL)
    lines = [line for line in code.splitlines() if line.strip() and not line.startswith("#")]
    assert len(lines) <= 10
    (tmp_path / "mine.py").write_text(code)
    (tmp_path / "train").symlink_to(PROJECT / "train")  # where the pocket models are
    monkeypatch.chdir(tmp_path)
    *_, module, recipe, flag = command.split()
    assert (module, flag) == ("pipelines.flow", "--dry-run")
    flow.main([recipe, flag, "--json"])
    shown = json.loads(capsys.readouterr().out)
    mine, pocket = recipes.resolve(recipe, ALL), resolved()
    assert (mine["teach"].num_rationales, mine["fit"].lora_rank, mine["deploy"]) == (3, 8, pocket["deploy"])
    assert shown["config"]["fit"]["num_steps"] == 300
    assert shown["run_dir"] == f"{tmp_path}/runs/mine-recipe"
    assert f"`{Path(shown['run_dir']).relative_to(tmp_path)}`" in section


def test_a_value_that_is_not_allowed_is_shown_without_the_credentials_in_it(tmp_path):
    secret = "s3://AKIAIOSFODNN7EXAMPLE:wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY@bucket/" + "x" * 60
    body = f"return parts(replace(part, verify=replace(part.verify, keep='{secret}')))"
    with pytest.raises(ConfigError, match="allowed is a whole number above 0") as wrong:
        recipes.resolve(own(tmp_path, body), ALL)
    assert "wJalr" not in str(wrong.value)
    with pytest.raises(ConfigError, match="allowed is a whole number above 0") as wrong:
        resolved(f"verify.keep={secret}")
    assert "wJalr" not in str(wrong.value)
