"""A large source, which Ray Data reads, on Rays that have as many CPUs as they say and fewer than there are shards."""

import os
import signal
import subprocess
import sys

import pytest

from infra import manifest
from tests.benchmarks.generated import write_pmc_vqa
from tests.flow.conftest import PROJECT
from tests.flow.nodes import ray_nodes

# Ray's Cluster leaves a socket open for each node that it starts.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

IMAGES_PER_SHARD, TIMEOUT_S = 400, 240
# A local Ray claims more CPUs than there are, behind which a stage could hide that it needs one more.
SCRIPT = f"""
import sys
from infra import cluster
from pipelines.questions import command, ingest
cluster._MIN_LOGICAL_CPUS = 2
cluster.os.cpu_count = lambda: 2
ingest.IMAGES_PER_SHARD = {IMAGES_PER_SHARD}
ingest.LARGE_BYTES = int(sys.argv.pop(1))
command.main(sys.argv[1:])
"""


def read(folder, name, *, large, **environment):
    """Seal the set's questions in a process that has a limit of time: the artifact, and what it printed."""
    arguments = [str(0 if large else 1 << 40), "pmc_vqa", "--table", str(folder / "train.csv"), "--out"]
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *arguments, str(folder / name)],
        cwd=PROJECT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        printed, _ = process.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)  # so that its Ray ends with it
        printed, _ = process.communicate(timeout=60)
        pytest.fail(f"not done after {TIMEOUT_S} s: {printed[-2000:]}")
    assert process.returncode == 0, printed
    return manifest.find(folder / name, every_byte=True), printed


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A dirty set."""
    folder = tmp_path_factory.mktemp("questions")
    write_pmc_vqa(folder, num_rows=3000, num_images=2500, dirt_share=0.1)
    return folder


@pytest.fixture(scope="module")
def alone(folder):
    return read(folder, "alone", large=False)[0]


def test_over_nodes_of_one_cpu_each_the_bytes_are_the_same(folder, alone):
    with ray_nodes([1], head_cpus=1) as nodes:
        over_nodes, _ = read(folder, "nodes", large=True, RAY_ADDRESS=nodes.address)
    assert over_nodes.digest == alone.digest


def test_on_two_cpus_six_shards_of_images_are_sealed_to_the_same_bytes_as_in_one_process(folder, alone):
    by_ray, printed = read(folder, "ray", large=True)
    assert len(list((by_ray.path / "images").iterdir())) == 6
    assert by_ray.digest == alone.digest
    assert by_ray.tally == alone.tally
    assert by_ray.tally["quarantined"]["damaged_image"] > 0
    assert "Traceback" not in printed  # Ray's chatter stays out of the user's sight
    assert "Warning" not in printed
