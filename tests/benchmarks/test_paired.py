import os

import pytest

from tests.benchmarks import paired


def test_turns_alternate_and_every_run_says_how_busy_the_machine_was():
    order = []
    systems = {name: lambda name=name: order.append(name) or {"speed": len(order)} for name in "abc"}

    runs = paired.in_turns(systems, 3, lambda name, run: None)

    assert "".join(order) == "abccbaabc"
    assert [run["speed"] for run in runs["a"]] == [1, 6, 7]
    assert all(run["load_before"] >= 0 for each in runs.values() for run in each)


def test_ratios_are_of_runs_that_stood_side_by_side():
    ours, theirs = ([{"speed": speed} for speed in each] for each in ((10, 40, 30), (10, 20, 20)))

    assert paired.ratios(ours, theirs, "speed") == {"median": 1.5, "least": 1.0, "most": 2.0}


def test_the_machine_is_named():
    about = paired.machine()

    assert about["processor"] != "unknown"
    assert about["cpus"] == sorted(os.sched_getaffinity(0))


@pytest.mark.parametrize("seconds", [[1.0] * 48, [9.0] + [1.0] * 11 + [0.5] * 36])
def test_a_fits_warm_up_counts_in_no_speed_and_its_first_epoch_apart(seconds):
    from tests.benchmarks import bench_train

    told = bench_train.figures([100] * 48, seconds)

    assert (told["first_epoch"], told["later_epochs"]) == (100.0, 100.0 / seconds[-1])
    assert told["warm_up_s"] == seconds[0]
    assert told["slow_steps"] == told["fast_steps"] == told["later_epochs"]
