"""What a stage says of itself."""

import dataclasses
from typing import ClassVar

import pytest

from infra.stage import StageConfig


@pytest.mark.parametrize(
    ("has_run", "is_typed"),
    [
        ("pipelines.teaching.stage", "pipelines.teaching"),
        ("train.fit", "train.fit"),
        ("pipelines.stages", "pipelines.stages"),
    ],
)
def test_the_command_of_a_stage_is_its_package_or_else_its_module(has_run, is_typed):
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Config(StageConfig):
        stage: ClassVar[str] = "any"
        module: ClassVar[str] = has_run

    assert Config().command == is_typed
