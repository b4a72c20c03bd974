"""How a fit's workers find each other when all of them are on this machine: over loopback only. [edge]"""

import importlib
import socket
from typing import Any

from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend
from torch.distributed import TCPStore


class LoopbackConfig(TorchConfig):
    """Ray Train's torch config for workers of a local Ray: their rendezvous listens on loopback only."""

    @property
    def backend_cls(self) -> type:
        """The Ray Train backend that starts the process group."""
        return _LoopbackBackend


class _LoopbackBackend(_TorchBackend):
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        worker_group.execute(_use_loopback_store)
        super().on_start(worker_group, backend_config)


def _use_loopback_store() -> None:
    """Replace the TCPStore class that torch's rendezvous starts: torch's own listens on every network interface,
    whatever address it is given."""
    # Imported by name, because the attribute torch.distributed.rendezvous is a function.
    importlib.import_module("torch.distributed.rendezvous").TCPStore = LoopbackStore  # type: ignore[attr-defined]


class LoopbackStore(TCPStore):
    """Torch's TCPStore, whose server listens on a loopback socket that we open for it."""

    def __init__(self, host_name: str, port: int, world_size: int, is_master: bool, **settings: Any) -> None:
        if is_master:
            listening = socket.create_server(("127.0.0.1", port))
            settings["master_listen_fd"] = listening.detach()  # the store owns and closes it
        super().__init__(host_name, port, world_size, is_master, **settings)
