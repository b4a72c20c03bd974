import json
from pathlib import Path

import pytest

from infra.errors import InputError
from pipelines.report import schema
from tests.pipelines.report.reports import written


def test_a_report_of_an_older_schema_is_refused_with_what_to_type():
    old = json.loads(Path(__file__).with_name("report_of_schema_3.json").read_text())
    with pytest.raises(
        InputError, match=r"preceptor\.report/3'.*knows preceptor\.report/5.*python -m pipelines\.report"
    ):
        schema.check(old)


def test_a_report_has_each_documented_key_and_no_other():
    report = written(("s", "", 2, ("",)))
    schema.check(report)
    with pytest.raises(InputError, match="power"):
        schema.check({name: value for name, value in report.items() if name != "power"})
    with pytest.raises(InputError, match="colour"):
        schema.check(report | {"colour": "blue"})
    assert all(schema.KEYS.values())
