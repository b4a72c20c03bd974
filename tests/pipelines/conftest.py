"""What the tests of this folder have in common."""

import pytest

from infra import journal


@pytest.fixture(autouse=True, scope="package")
def nothing_is_recorded():
    """No stage of these tests starts the process that brings journals into MLflow: it takes seconds each time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(journal.DRIVER_VARIABLE, "1")
        yield
