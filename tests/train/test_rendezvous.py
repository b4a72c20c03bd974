import os
import time

import pytest
from ray.train.torch import TorchConfig
from torch.distributed import TCPStore

from tests import listening
from train.rendezvous import LoopbackConfig, LoopbackStore


@pytest.mark.parametrize(("kind", "is_loopback"), [(TCPStore, False), (LoopbackStore, True)])
def test_torch_s_store_listens_everywhere_and_ours_on_loopback_alone(kind, is_loopback):
    port = listening.free_port()
    with listening.watched(os.getpid()) as listeners:
        store = kind("127.0.0.1", port, 1, True)
        store.set("key", "value")
        assert store.get("key") == b"value"
        while port not in {listener.port for listener in listeners}:
            time.sleep(0.05)
    assert {listener.is_loopback for listener in listeners if listener.port == port} == {is_loopback}


def test_ray_train_starts_the_group_with_it():
    assert issubclass(LoopbackConfig().backend_cls, TorchConfig().backend_cls)
