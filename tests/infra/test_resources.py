import re

import pytest

from infra.resources import ClusterShape, Workers, lacking, total, words

NODE = ClusterShape(cpus=96, gpus=8)


def engines(count: int, gpus: int, cpus: int = 8, least: int | None = None) -> Workers:
    return Workers(what="engines", count=count, cpus=cpus, gpus=gpus, least=least)


@pytest.mark.parametrize(
    ("shape", "asked", "said"),
    [
        (NODE, [engines(2, 4)], None),
        (NODE, [engines(1, 1), engines(1, 4)], None),
        (NODE, [engines(1, 1), engines(1, 8)], "16 CPUs and 9 GPUs in all, and 1 node of 96 CPUs and 8 GPUs has"),
        (ClusterShape(nodes=2, cpus=96, gpus=8), [engines(1, 1), engines(1, 8)], None),
        (
            ClusterShape(nodes=2, cpus=96, gpus=5),
            [engines(3, 3)],
            "no node of 2 nodes .* room for another 8 CPUs and 3",
        ),
        (ClusterShape(nodes=3, cpus=96, gpus=4), [engines(1, 8)], "no node of 3 nodes"),
        (NODE, [engines(13, 0)], "104 CPUs in all"),
        (NODE, [engines(4, 4, least=2)], None),
        (NODE, [Workers(what="readers", count=None)], None),
        (ClusterShape(cpus=2), [engines(1, 1, cpus=1)], "1 CPU and 1 GPU in all, and 1 node of 2 CPUs has 2 CPUs"),
    ],
)
def test_workers_have_room_on_a_cluster_or_it_is_said_why_not(shape, asked, said):
    why = lacking(shape, asked)
    if said is None:
        assert why is None
    else:
        assert re.search(said, why)


def test_small_workers_fill_what_large_ones_leave():
    shape = ClusterShape(nodes=2, cpus=96, gpus=8)
    assert lacking(shape, [engines(4, 1), engines(1, 8), engines(1, 4)]) is None
    assert lacking(shape, [engines(5, 1), engines(1, 8), engines(1, 4)])


def test_each_worker_is_one_placement_group_with_a_bundle_for_each_gpu():
    assert engines(2, 3, cpus=4).bundles() == [{"CPU": 4.0, "GPU": 1.0}, {"GPU": 1.0}, {"GPU": 1.0}]
    assert engines(1, 0, cpus=2).bundles() == [{"CPU": 2.0}]


def test_what_is_asked_for_is_told_in_words_and_summed():
    asked = (engines(4, 2, least=2), engines(1, 1, cpus=1), Workers(what="readers", count=None))
    assert words(asked) == (
        "2 to 4 engines: 8 CPUs and 2 GPUs each; 1 engines: 1 CPU and 1 GPU; "
        "readers: 1 CPU each, as many as there is room for"
    )
    assert total(asked) == (18, 5)
