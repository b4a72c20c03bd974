"""What every test runs under: telemetry off, no hub, and nothing of the user's environment."""

import gc
import os
import sys
from pathlib import Path

import pytest
from hypothesis import settings

from infra import privacy

REAL_ENGINES = Path(__file__).parent / "flow"

# Machines that run tests are busy, and what passes once must pass again; `make fuzz` is for what nobody thought of.
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.register_profile("fuzz", deadline=None, max_examples=2_000)
settings.load_profile("repeatable")
privacy.silence()
os.environ["HF_HUB_OFFLINE"] = "1"
for name in (
    "RAY_ADDRESS",
    "MLFLOW_TRACKING_URI",
    "PRECEPTOR_CODE_REVISION",
    "PRECEPTOR_API_KEY",
    "PRECEPTOR_LOCAL_RAY",
):
    os.environ.pop(name, None)

# The engines that test modules import stay until the end: to look through them again and again for garbage would be a
# fifth of the time that it takes to collect the tests.
gc.disable()


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.is_relative_to(REAL_ENGINES):
            item.add_marker(pytest.mark.engine)


def pytest_xdist_make_scheduler(config, log):
    """Of two processes one has all real engines, one after the other; the rest goes by files to whoever is free."""
    from xdist.scheduler import LoadFileScheduling

    class EnginesTogether(LoadFileScheduling):
        def _split_scope(self, nodeid):
            return "engines" if nodeid.startswith("tests/flow/") else super()._split_scope(nodeid)

    return EnginesTogether(config, log)


def pytest_collection_finish(session):
    gc.collect()
    gc.freeze()
    gc.enable()
    if "PYTEST_XDIST_WORKER" in os.environ and (torch := sys.modules.get("torch")):
        torch.set_num_threads(1)  # beside another process, two threads wait for each other longer than they work


@pytest.fixture(scope="module")
def bucket():
    """A bucket of an S3 server on loopback."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            patch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket="bucket")
        yield "s3://bucket"
    server.stop()
