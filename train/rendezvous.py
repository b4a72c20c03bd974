"""How a fit's workers find each other: Ray Train's way, and on this machine alone over loopback alone. [edge]"""

import importlib
import socket
from typing import Any

from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend
from torch.distributed import TCPStore


class LoopbackConfig(TorchConfig):
    """Torch's process group for workers of a local Ray."""

    @property
    def backend_cls(self) -> type:
        """What Ray Train starts the group with."""
        return _LoopbackBackend


class _LoopbackBackend(_TorchBackend):
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        worker_group.execute(_listen_on_loopback)
        super().on_start(worker_group, backend_config)


def _listen_on_loopback() -> None:
    """Have this process's TCPStore listen on loopback: torch has it listen on every interface, whatever its address."""
    # By its name, since torch.distributed has a function of that name too.
    importlib.import_module("torch.distributed.rendezvous").TCPStore = LoopbackStore  # type: ignore[attr-defined]


class LoopbackStore(TCPStore):
    """Torch's TCPStore, whose server takes a socket of ours to listen on."""

    def __init__(self, host_name: str, port: int, world_size: int, is_master: bool, **settings: Any) -> None:
        if is_master:
            listening = socket.create_server(("127.0.0.1", port))
            settings["master_listen_fd"] = listening.detach()  # the store closes it
        super().__init__(host_name, port, world_size, is_master, **settings)
