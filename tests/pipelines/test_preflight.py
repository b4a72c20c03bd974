"""Contradictions between the settings of a recipe are found before anything runs, with what to type."""

import json
import re

import pytest

from infra import recipes
from infra.errors import ConfigError
from infra.resources import ClusterShape, lacking
from pipelines import flow, preflight

BESIDE = '{"cpus": 8, "gpus": 8, "max_model_len": 8192}'
SHIPPED = sorted(recipes.known_recipes("pipelines"))


def found(recipe: str, *overrides: str) -> list[str]:
    return list(flow.findings(flow.resolve(recipe, overrides)))


@pytest.mark.parametrize("recipe", SHIPPED)
def test_no_shipped_recipe_contradicts_itself(recipe):
    assert found(recipe) == []


@pytest.mark.parametrize("recipe", [name for name in SHIPPED if name.startswith("pmc_vqa_8x")])
def test_a_shipped_recipe_named_after_eight_gpus_is_compared_with_eight(recipe):
    configs = flow.resolve(recipe, [])
    assert (configs["cluster"].nodes, configs["cluster"].gpus) == (1, 8)
    smaller = ClusterShape(cpus=96, gpus=7)
    assert any(lacking(smaller, configs[name].resources()) for name in flow.STAGES if configs[name] is not None)


@pytest.mark.parametrize(
    ("recipe", "overrides", "finding"),
    [
        (
            "pmc_vqa_8xh200_bf16",
            [f"deploy.teacher={BESIDE}"],
            "deploy asks for 16 CPUs and 9 GPUs in all, .* has 96 CPUs and 8 GPUs.* --set deploy.teacher=null",
        ),
        (
            "pocket",
            ["fit.seeds=3"],
            "fit.seeds=3, deploy.seeds=1, examination.seeds=1: name .* once, in the place of --set: --seeds 3",
        ),
        ("pmc_vqa_8xh200", ["teach.engine.replicas=3"], "teach asks for 12 CPUs and 12 GPUs in all"),
        ("pmc_vqa_8xh200", ["fit.num_workers=9", "fit.min_workers=9"], "fit asks for 72 CPUs and 9 GPUs"),
        ("pmc_vqa_8xh200", ["cluster.gpus=3", "cluster.nodes=3"], "teach asks for 2 teacher engines.*no node of 3"),
        (
            "pmc_vqa_8xh200_thinking",
            ['examination.budgets=[{"arm": "teacher", "max_tokens": 1024, "timeout_s": 3600}]'],
            "The teacher has 8192 tokens to teach .* and 1024 in the examination: "
            r"--set 'examination.budgets=\[{\"arm\": \"teacher\", \"max_tokens\": 8192, \"timeout_s\": 3600.0}\]'",
        ),
        (
            "pmc_vqa_8xh200_thinking",
            ['examination.budgets=[{"arm": "teacher", "max_tokens": 8192, "timeout_s": 120}]'],
            r"budgets\[teacher\].timeout_s is 120, too short for 8192 tokens .* --set 'examination.budgets=.*820",
        ),
        (
            "pmc_vqa_8xh200_thinking",
            ["deploy.answer_timeout_s=300"],
            "deploy.answer_timeout_s is 300, too short for 8192 tokens",
        ),
        ("pmc_vqa_8xh200_thinking", ["teach.timeout_s=600"], "teach.timeout_s is 600, too short for 8192 tokens"),
        (
            "pmc_vqa_8xh200_thinking",
            ["deploy.max_answer_tokens=4096"],
            r"budgets\[teacher\].max_tokens is 8192, and the endpoint takes 4096: --set deploy.max_answer_tokens=8192",
        ),
        (
            "pmc_vqa_8xh200_thinking",
            ["deploy.teacher.max_model_len=8192"],
            "deploy.teacher.max_model_len is 8192, .* 1024 tokens, .* answer 8192: --set deploy.teacher.max_model",
        ),
        (
            "pmc_vqa_8xh200",
            ["examination.max_tokens=256"],
            "examination.max_tokens is 256, and students learn to write up to 1024 tokens",
        ),
        (
            "pmc_vqa_8xh200",
            ["fit.max_length=2048"],
            "fit.max_length is 2048, and a question's images have up to 1024 tokens, a prompt 256, an answer 1024: "
            "--set fit.max_length=2304",
        ),
        ("pmc_vqa_8xh200", ["teach.max_tokens=7000"], "teach.engine.max_model_len is 8192, and .* an answer 7000"),
        (
            "pmc_vqa_8xh200",
            ["questions.max_pixels=4000000"],
            r"fit.max_length is 3072, and a question's images have up to 3907 tokens",
        ),
        (
            "pmc_vqa_8xh200",
            ["teach.engine.images_per_request=6"],
            "fit.max_length is 3072, and a question's images have up to 6144 tokens, .* --set fit.max_length=7424",
        ),
        (
            "pmc_vqa_8xh200",
            ['examination.plan=["zero_shot+letter+5shot/real"]'],
            "deploy.student.images_per_request is 1, and 5 examples and a question have up to 6: "
            "--set deploy.student.images_per_request=6",
        ),
        (
            "pmc_vqa_8xh200",
            ['examination.plan=["zero_shot+letter+5shot/real", "zero_shot/real"]'],
            "deploy.student.max_model_len is .* have up to 6144 tokens, a prompt 1536, an answer 2048",
        ),
        (
            "pmc_vqa_8xh200",
            ['examination.plan=["rationale_then_answer/real", "rationale_then_answer+prefilled/real"]'],
            r"has rationale_then_answer\+prefilled/real, and the endpoint takes no .* --set deploy.prefill=true",
        ),
        (
            "pmc_vqa_8xh200",
            ['examination.budgets=[{"arm": "rationale_then_answer", "max_tokens": 64}]'],
            r"examination.budgets\[rationale_then_answer\].max_tokens is 64, and students learn to write up to 1024",
        ),
        (
            "pmc_vqa_8xh200_bf16",
            ['examination.plan=["teacher/real"]'],
            "examination.plan asks the teacher, and deploy.teacher",
        ),
    ],
)
def test_what_would_end_the_flow_late_is_told_with_what_to_type(recipe, overrides, finding):
    told = found(recipe, *overrides)
    assert [line for line in told if re.search(finding, line)], told
    assert all("--set" in line for line in told)


def test_what_a_finding_says_to_type_mends_it():
    wrong = [
        'examination.budgets=[{"arm": "teacher", "max_tokens": 1024}]',
        "fit.max_length=1500",
        "deploy.answer_timeout_s=9",
    ]
    overrides = list(wrong)
    for _ in range(8):
        told = found("pmc_vqa_8xh200_thinking", *overrides)
        if not told:
            break
        typed = re.search(r"--set (?:'([^']+)'|(\S+=\S+?)[,.]?(?: |$))", told[0])
        overrides.append(typed[1] or typed[2])
    assert told == []
    assert len(overrides) > len(wrong)


def test_a_recipe_without_room_for_its_teacher_says_in_its_report_that_it_is_not_examined():
    configs = flow.resolve("pmc_vqa_8xh200_bf16", [])
    assert not any(entry.startswith("teacher/") for entry in configs["examination"].plan)
    assert any("The teacher is not examined" in note for note in configs["report"].notes)


def test_a_teacher_elsewhere_is_not_served_here_and_stays_in_the_examination():
    configs = flow.resolve(
        "pmc_vqa_8xh200_bf16", ["teach.endpoint=http://127.0.0.1:1/v1", 'examination.plan=["teacher/real"]']
    )
    assert configs["deploy"].teacher is None
    assert list(flow.findings(configs)) == []
    assert [str(workers) for workers in configs["deploy"].resources()] == ["1 student engines: 8 CPUs and 1 GPU"]


def test_a_recipe_of_the_students_alone_says_what_it_is_and_names_those_of_the_flow():
    with pytest.raises(ConfigError, match=r"recipe of train alone, .*m train\.fit qwen3_vl_2b_1x32gb .*pmc_vqa"):
        flow.resolve("qwen3_vl_2b_1x32gb", [])


@pytest.mark.parametrize(
    ("name", "stated", "tokens"),
    [
        ("processor_config.json", {"image_processor": {"patch_size": 14, "merge_size": 2}}, 1338),
        ("preprocessor_config.json", {"patch_size": 16, "merge_size": 2, "size": {"longest_edge": 262144}}, 256),
        ("preprocessor_config.json", {"patch_size": "x"}, 1024),
        ("other.json", {}, 1024),
    ],
)
def test_image_tokens_are_those_of_the_model_s_own_processor_where_it_is_at_hand(tmp_path, name, stated, tokens):
    (tmp_path / name).write_text(json.dumps(stated))
    assert preflight.image_tokens(str(tmp_path), 1 << 20) == tokens
    assert preflight.image_tokens("Qwen/Qwen3-VL-2B-Instruct", 1 << 20) == 1024
    assert preflight.image_tokens("train/pocket/base", 1 << 20) == 9


@pytest.mark.parametrize("recipe", [name for name in SHIPPED if name.startswith("pmc_vqa")])
def test_a_large_recipe_asks_base_and_students_under_the_same_conditions_and_the_base_in_both_words(recipe):
    examination = flow.resolve(recipe, [])["examination"]
    conditions = {}
    for entry in examination.entries():
        conditions.setdefault((entry.arm, entry.prompt), []).append(entry.condition)
    compared = {who: asked for who, asked in conditions.items() if who[0] != "teacher"}
    assert set(compared) == {
        ("zero_shot", "answer"),
        ("zero_shot", "rationale"),
        ("answer_only", "answer"),
        ("rationale_then_answer", "rationale"),
    }
    assert all(asked == ["real", "blank", "shuffled"] for asked in compared.values())
    assert examination.repeat_share == 0.05
