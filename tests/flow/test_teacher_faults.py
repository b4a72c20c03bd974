"""What a cluster does to a teacher: engines, nodes and drivers killed, on several nodes of a local Ray."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from infra import manifest, runner
from infra.progress import Progress
from pipelines import recipes
from pipelines.records import Rationale, Status, Verdict, tables
from tests.flow.conftest import PROJECT
from tests.flow.nodes import ray_nodes
from tests.pipelines.teaching.fixtures import many, put_many

# Ray's Cluster leaves a socket open for each node that it starts.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

NUM_QUESTIONS = 200
ENGINE = {"cpus": 2, "replicas": 2, "max_num_seqs": 8}
SETTINGS = {"num_rationales": 1, "grounding_share": 0.0, "batch_size": 4, "attempts": 2, "engine": ENGINE}
ACTOR = "MapBatches(WorkerActor)"


def room_for_two():
    """A head that has a CPU for small tasks, and two nodes that have room for one engine each."""
    return ray_nodes([2, 2], head_cpus=1)


@pytest.fixture(scope="module")
def nodes():
    with room_for_two() as made:
        yield made


class Teaching:
    """The stage in a process of its own, over questions of its own."""

    def __init__(self, tmp_path, asked=None, **fake):
        self.run_dir = tmp_path / "runs" / "a"
        self.artifact = put_many(self.run_dir, asked or many(NUM_QUESTIONS))
        self.calls = tmp_path / "calls"
        self.fake = {"seconds": 0.1, "calls": str(self.calls)} | fake
        self.log = tmp_path / "log"

    @contextmanager
    def running(self, nodes, **settings):
        command = [sys.executable, "-m", "tests.flow.teach", str(self.run_dir)]
        command += [json.dumps(SETTINGS | settings), json.dumps(self.fake)]
        # A driver waits a minute for a cluster that is gone; here it need not.
        environment = os.environ | {"RAY_ADDRESS": nodes.address, "RAY_gcs_rpc_server_reconnect_timeout_s": "5"}
        with self.log.open("w") as log:
            process = subprocess.Popen(command, cwd=PROJECT, stdout=log, stderr=log, env=environment)
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.wait(timeout=60)

    def finish(self, nodes, **settings):
        with self.running(nodes, **settings) as process:
            assert process.wait(timeout=240) == 0, self.log.read_text()[-4000:]

    def wait_until(self, so):
        """Until it is so."""
        deadline = time.monotonic() + 120
        while not so():
            assert time.monotonic() < deadline, self.log.read_text()[-4000:]
            time.sleep(0.05)

    def wait_until_written(self, num):
        """Until so many attempts are in the ledger."""
        self.wait_until(lambda: len(self.lines()) >= num)

    def lines(self):
        paths = sorted(self.run_dir.parent.glob("ledger/*/*.jsonl"))
        return [line for path in paths for line in path.read_text().splitlines()]

    def num_starts(self):
        """How often an engine was started."""
        return len(Path(self.fake["starts"]).read_text().splitlines())

    def check_repeated(self, deaths):
        """Sent twice is at most what so many engines had under way when they died; says how much it was."""
        asked = Counter(self.calls.read_text().splitlines())
        repeated = sum(count - 1 for count in asked.values())
        print(f"repeated: {repeated} of {NUM_QUESTIONS}")
        assert repeated <= deaths * ENGINE["max_num_seqs"]

    def check_account(self, **failed):
        """Nothing lost, nothing twice: in the rationales, and in the verdicts on them. Returns the rationales."""
        rationales = tables.read(self.run_dir / "rationales", Rationale)
        assert [r.question_id for r in rationales] == [q.id for q in many(NUM_QUESTIONS)]
        assert len({r.id for r in rationales}) == NUM_QUESTIONS
        tally = manifest.find(self.run_dir / "rationales").tally
        assert tally["reasons"] | tally["quarantined"] == failed
        assert tally["rows"]["asked"] == NUM_QUESTIONS == tally["rows"]["answered"] + sum(failed.values())
        runner.carry_out(recipes.pocket().verify, self.run_dir, Progress("verify"))
        statuses = Counter(verdict.status for verdict in tables.read(self.run_dir / "verdicts", Verdict))
        assert statuses.total() == NUM_QUESTIONS
        assert statuses[Status.FAILED] + statuses[Status.QUARANTINED] == sum(failed.values())
        return rationales


def actors():
    """The processes that hold an engine."""
    return [child for child in psutil.Process().children(recursive=True) if ACTOR in " ".join(child.cmdline()[:1])]


def test_an_engine_that_is_killed_is_started_again_if_need_be_twice_and_nothing_is_lost(nodes, tmp_path):
    teaching = Teaching(tmp_path, starts=str(tmp_path / "starts"), failing_starts=[3])
    with teaching.running(nodes) as process:
        teaching.wait_until_written(60)
        victim, other = actors()
        other.suspend()  # or it might have done all the work before the third start
        victim.kill()
        teaching.wait_until(lambda: teaching.num_starts() >= 4)
        other.resume()
        assert process.wait(timeout=240) == 0, teaching.log.read_text()[-4000:]
    teaching.check_account()
    # Two, one in vain, and one for each death: the engine that is held still may be taken for dead, too.
    assert teaching.num_starts() in (4, 5)
    teaching.check_repeated(deaths=teaching.num_starts() - 3)


def test_engines_are_added_while_there_is_work_for_them(nodes, tmp_path):
    teaching = Teaching(tmp_path, starts=str(tmp_path / "starts"), waits_for_starts=2)
    teaching.finish(nodes, min_replicas=1)
    teaching.check_account()
    files = list(teaching.run_dir.parent.glob("ledger/*/*.jsonl"))
    assert len([path for path in files if path.stat().st_size]) == 2


def test_an_engine_that_cannot_start_ends_the_stage_with_its_own_words(nodes, tmp_path):
    teaching = Teaching(tmp_path, starts=str(tmp_path / "starts"), failing_starts=[1, 2, 3, 4, 5, 6, 7, 8, 9])
    with teaching.running(nodes) as process:
        assert process.wait(timeout=120) == 1
    assert "teach: error: RuntimeError: The memory is not free yet." in teaching.log.read_text()


def test_a_node_that_goes_for_good_loses_nothing(tmp_path):
    with room_for_two() as nodes:
        teaching = Teaching(tmp_path)
        with teaching.running(nodes) as process:
            teaching.wait_until_written(60)
            (lost, *_) = nodes.worker_nodes
            nodes.remove_node(lost, allow_graceful=False)
            assert process.wait(timeout=240) == 0, teaching.log.read_text()[-4000:]
        teaching.check_account()
        teaching.check_repeated(deaths=1)


def test_a_driver_that_is_killed_leaves_what_is_finished_and_the_next_one_does_the_rest(nodes, tmp_path):
    teaching = Teaching(tmp_path)
    for done in (60, 150):
        with teaching.running(nodes) as process:
            teaching.wait_until_written(done)
            process.send_signal(signal.SIGKILL)
    assert not (teaching.run_dir / "rationales").exists()
    teaching.finish(nodes)
    teaching.check_account()
    teaching.check_repeated(deaths=4)


def test_a_cluster_that_is_gone_leaves_what_is_finished_and_the_next_one_does_the_rest(tmp_path):
    teaching = Teaching(tmp_path)
    with room_for_two() as nodes, teaching.running(nodes) as process:
        teaching.wait_until_written(60)
        nodes.remove_node(nodes.head_node, allow_graceful=False)
        assert process.wait(timeout=240) != 0
    with room_for_two() as nodes:
        teaching.finish(nodes)
    teaching.check_account()
    teaching.check_repeated(deaths=2)


def test_a_full_disk_stops_the_stage_with_one_clear_error_and_with_room_it_goes_on(nodes, tmp_path):
    teaching = Teaching(tmp_path, disk_bytes=20_000)
    with teaching.running(nodes) as process:
        assert process.wait(timeout=240) == 1
    (said,) = [line for line in teaching.log.read_text().splitlines() if line.startswith("teach: error: ")]
    assert said.startswith("teach: error: The ledger ")
    assert "run the stage again" in said
    assert not (teaching.run_dir / "rationales").exists()
    assert 0 < len(teaching.lines()) < NUM_QUESTIONS
    teaching.fake.pop("disk_bytes")
    teaching.finish(nodes)
    teaching.check_account()
    teaching.check_repeated(deaths=2)


def corrupt(archive: Path, member: str) -> None:
    """Change a byte of a member's content where it lies, as a disk does; the artifact's seal is made new around it."""
    with zipfile.ZipFile(archive) as opened:
        start = opened.getinfo(member).header_offset + 30 + len(member)
    content = bytearray(archive.read_bytes())
    content[start + 40] ^= 0xFF
    archive.write_bytes(content)
    path = archive.parent.parent / manifest.MANIFEST
    sealed = json.loads(path.read_text())
    sealed["files"]["images/0.zip"]["sha256"] = manifest.digest_file(archive)
    path.write_text(json.dumps(sealed))


def test_a_prompt_that_kills_every_engine_and_a_corrupt_image_cost_no_other_row(nodes, tmp_path):
    asked = many(NUM_QUESTIONS)
    asked[9] = dataclasses.replace(asked[9], text="What is this POISON?")
    teaching = Teaching(tmp_path, asked, deadly="POISON")
    corrupt(teaching.artifact.path / "images/0.zip", "7.png")
    teaching.finish(nodes)
    rationales = teaching.check_account(engine_died_of_it=1, image_was_changed=1)
    statuses = {r.question_id: (r.status, r.error) for r in rationales if r.error}
    assert statuses == {"q7": (Status.QUARANTINED, "image_was_changed"), "q9": (Status.FAILED, "engine_died_of_it")}
    teaching.check_repeated(deaths=4)
