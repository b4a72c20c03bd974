"""What a config takes, and in which words it refuses the rest."""

import dataclasses
import enum
import json
import subprocess
import sys
from typing import Annotated, Literal

import pytest
from annotated_types import Ge, Gt, Le, Lt

from infra.config_types import config_classes, field_paths, in_words, type_at
from infra.config_validation import InvalidConfigError, validated


class Color(enum.StrEnum):
    RED = "red"
    BLUE = "blue"


class Opaque:
    pass


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inner:
    size: Annotated[int, Gt(0)] = 1
    share: Annotated[float, Ge(0), Lt(1)] = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outer:
    count: int = 1
    level: Annotated[int, Ge(0), Le(20)] = 0
    limit: Annotated[int, Gt(0)] | None = None
    bounded_union: Annotated[int | None, Gt(0)] = None
    rate: float = 1.0
    flag: bool = False
    name: str = "a"
    color: Color = Color.RED
    precision: Literal["fp32", "bf16"] = "bf16"
    colors: tuple[Color, ...] = (Color.RED,)
    names: tuple[str, ...] = ()
    inner: Inner = dataclasses.field(default_factory=Inner)
    inners: tuple[Inner, ...] = ()
    maybe: Inner | None = None
    either: int | str = 1
    opaque: Opaque | None = None

    def __post_init__(self):
        if self.count > 100:
            raise ValueError(f"count {self.count} is more than 100")


def problems(**fields):
    with pytest.raises(InvalidConfigError) as refused:
        validated(Outer, fields)
    return [problem.line("outer") for problem in refused.value.problems]


@pytest.mark.parametrize(
    ("field", "given", "made"),
    [
        ("count", 1.0, 1),
        ("rate", 2, 2.0),
        ("limit", None, None),
        ("limit", 3, 3),
        ("color", "blue", Color.BLUE),
        ("color", Color.BLUE, Color.BLUE),
        ("precision", "fp32", "fp32"),
        ("colors", ["red", Color.BLUE], (Color.RED, Color.BLUE)),
        ("names", ["x"], ("x",)),
        ("inner", {"size": 2}, Inner(size=2)),
        ("inners", [{"size": 2}, Inner(size=3)], (Inner(size=2), Inner(size=3))),
        ("maybe", {"share": 0.5}, Inner(share=0.5)),
        ("maybe", None, None),
        ("either", "text", "text"),
    ],
)
def test_a_value_becomes_what_its_type_says(field, given, made):
    value = getattr(validated(Outer, {field: given}), field)
    assert value == made
    assert type(value) is type(made)


WHOLE, NUMBER, ABOVE = "allowed is a whole number", "allowed is a number", "allowed is a whole number above 0"
FIELDS = "allowed is Inner(...), with the fields size, share"


@pytest.mark.parametrize(
    ("field", "given", "line"),
    [
        ("count", True, f"outer.count=True: {WHOLE}"),
        ("count", "1", f"outer.count='1': {WHOLE}"),
        ("count", 1.5, f"outer.count=1.5: {WHOLE}"),
        ("count", None, f"outer.count=None: {WHOLE}"),
        ("count", [1], f"outer.count=[1]: {WHOLE}"),
        ("count", float("nan"), "outer.count=nan: allowed is a finite number"),
        ("count", float("inf"), "outer.count=inf: allowed is a finite number"),
        ("count", 101, "outer: count 101 is more than 100"),
        ("rate", float("nan"), "outer.rate=nan: allowed is a finite number"),
        ("rate", -float("inf"), "outer.rate=-inf: allowed is a finite number"),
        ("rate", "1.0", f"outer.rate='1.0': {NUMBER}"),
        ("rate", False, f"outer.rate=False: {NUMBER}"),
        ("level", 21, "outer.level=21: allowed is a whole number from 0 to 20"),
        ("limit", 0, f"outer.limit=0: {ABOVE}, or None (--set: null)"),
        ("limit", "2", f"outer.limit='2': {ABOVE}, or None (--set: null)"),
        ("bounded_union", 0, f"outer.bounded_union=0: {ABOVE}, or None (--set: null)"),
        ("flag", "yes", "outer.flag='yes': allowed is true or false"),
        ("flag", None, "outer.flag=None: allowed is true or false"),
        ("name", 5, "outer.name=5: allowed is text"),
        ("name", b"a", "outer.name=b'a': allowed is text"),
        ("color", "green", "outer.color='green': allowed is one of red, blue"),
        ("precision", "fp16", "outer.precision='fp16': allowed is one of fp32, bf16"),
        ("colors", "red", 'outer.colors=\'red\': allowed is a list such as ["red", "blue"], each one of red, blue'),
        ("colors", ["red", "green"], "outer.colors[1]='green': allowed is one of red, blue"),
        ("names", {"a"}, 'outer.names={\'a\'}: allowed is a list such as ["...", "..."], each text'),
        ("inner", 5, f"outer.inner=5: {FIELDS}"),
        ("inner", None, f"outer.inner=None: {FIELDS}"),
        ("inner", Opaque, f"outer.inner={Opaque!r}: {FIELDS}"),
        ("inner", {"size": "2"}, f"outer.inner.size='2': {ABOVE}"),
        ("inner", {"sise": 2}, "outer.inner.sise: there is no such field. Did you mean 'size'? Known: share, size."),
        (
            "inners",
            [{"size": 1}, {"share": 1}],
            "outer.inners[1].share=1: allowed is a number of at least 0 and below 1",
        ),
        ("maybe", 5, f"outer.maybe=5: {FIELDS}, or None (--set: null)"),
        ("opaque", 5, "outer.opaque=5: allowed is Opaque, or None (--set: null)"),
    ],
)
def test_anything_else_is_refused_with_its_place_and_what_is_allowed(field, given, line):
    assert problems(**{field: given}) == [line]


def test_all_that_is_wrong_is_said_at_once_and_rules_between_fields_wait():
    said = problems(count="many", rate=float("nan"), inner={"size": 0}, conut=1)
    assert len(said) == 4
    assert not any("more than 100" in line for line in said)


def test_a_config_of_another_class_is_refused_and_one_that_was_made_wrong_is_found():
    with pytest.raises(InvalidConfigError) as refused:
        validated(Outer, Inner())
    assert [problem.line("outer").partition(", with")[0] for problem in refused.value.problems] == [
        "outer=Inner(...): allowed is Outer(...)"
    ]
    with pytest.raises(InvalidConfigError) as refused:
        validated(Outer, Outer(inner=Inner(size=0), flag="no"))
    assert sorted(problem.line("outer") for problem in refused.value.problems) == [
        "outer.flag='no': allowed is true or false",
        f"outer.inner.size=0: {ABOVE}",
    ]


def test_a_right_config_comes_out_as_it_went_in():
    config = Outer(colors=(Color.BLUE,), inners=(Inner(),), maybe=Inner(size=2), limit=3)
    assert json.dumps(dataclasses.asdict(validated(Outer, config))) == json.dumps(dataclasses.asdict(config))


def test_the_types_of_a_config_are_found_by_path():
    assert {Outer, Inner} == set(config_classes(Outer | None))
    assert ("inner", "share") in set(field_paths(Outer))
    assert ("maybe", "size") in set(field_paths(Outer))
    assert ("inners", "size") not in set(field_paths(Outer))  # --set names no element of a list
    assert in_words(type_at(Outer, ("inners", 0, "size"))) == "a whole number above 0"


def test_pydantic_is_not_imported_until_something_is_checked():
    script = "import sys, infra.config_validation; sys.exit('pydantic' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)
