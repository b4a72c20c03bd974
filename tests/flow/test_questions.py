import subprocess
import sys

import pytest

from infra import manifest
from tests.benchmarks.generated import write_pmc_vqa
from tests.flow.conftest import PROJECT

LARGE = (
    "import sys; from pipelines import command; from pipelines.sources import intake; "
    "intake.LARGE_BYTES = 0; command.main(sys.argv[1:])"
)


@pytest.fixture(scope="module")
def read_twice(tmp_path_factory):
    """A dirty set, read in one process and by Ray Data; the two artifacts, and what each command printed."""
    folder = tmp_path_factory.mktemp("questions")
    write_pmc_vqa(folder, num_rows=3000, num_images=2500, dirt_share=0.1)
    sealed, printed = {}, {}
    for name, start in (("alone", ["-m", "pipelines.questions"]), ("ray", ["-c", LARGE])):
        arguments = ["pmc_vqa", "--table", str(folder / "train.csv"), "--out", str(folder / name)]
        done = subprocess.run(
            [sys.executable, *start, *arguments], cwd=PROJECT, capture_output=True, text=True, check=False, timeout=300
        )
        assert done.returncode == 0, done.stderr
        sealed[name], printed[name] = manifest.find(folder / name, every_byte=True), done.stdout + done.stderr
    return sealed, printed


def test_ray_data_and_one_process_seal_the_same_bytes(read_twice):
    sealed, _ = read_twice
    assert sealed["ray"].digest == sealed["alone"].digest
    assert sealed["ray"].tally == sealed["alone"].tally
    assert sealed["ray"].tally["quarantined"]["damaged_image"] > 0


def test_ray_s_chatter_stays_out_of_the_user_s_sight(read_twice):
    _, printed = read_twice
    assert "Traceback" not in printed["ray"]
    assert "Warning" not in printed["ray"]
