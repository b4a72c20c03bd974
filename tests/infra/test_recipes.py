import dataclasses
import textwrap

import pytest

from infra import recipes
from infra.errors import ConfigError
from pipelines import flow

ALL = flow.PACKAGES


def resolved(*overrides):
    return recipes.resolve("pocket", ALL, overrides)


def test_an_unknown_recipe_lists_the_known_ones_with_the_nearest():
    with pytest.raises(ConfigError, match=r"'pockt'.*Did you mean 'pocket'\?.*Known: .*pocket"):
        recipes.resolve("pockt", ALL)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("teach.temperature=hot", r"teach\.temperature=hot.*float"),
        ("teach.temperature=-1", r"teach\.temperature=-1.*greater than or equal to 0"),
        ("teach.temprature=1", r"no field 'temprature'.*Did you mean 'temperature'"),
        ("teech.temperature=1", r"'teech' is no stage.*Did you mean 'teach'"),
        ("teach=1", r"name a field"),
        ("teach.seed.deeper=1", r"single value"),
        ("teach.temperature", r"has no '='"),
        ("fit.learning_rate=Infinity", r"finite number"),
        ("questions.limit=0", r"greater than 0"),
        ("questions.limit=1.5", r"questions\.limit=1\.5"),
        ('examine.plan=["teacher/sideways"]', r"teacher/sideways.*no arm/condition"),
        ('fit.arms=["rationale_first"]', "Input should be .*'rationale_then_answer'"),
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
