"""What a process tree listens on, seen from outside of it: for the claim that nothing but this machine reaches it."""

import dataclasses
import ipaddress
import re
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

_EVERY_S = 0.2
_HOLDER = re.compile(r'\("(?P<name>.*?)",pid=(?P<pid>\d+),')


@dataclasses.dataclass(frozen=True)
class Listener:
    """A socket that takes connections or datagrams. process: its name and command, cut short."""

    protocol: str
    address: str
    port: int
    process: str

    @property
    def is_loopback(self) -> bool:
        """Whether other machines cannot reach it."""
        if self.address == "*":
            return False
        address = ipaddress.ip_address(self.address.partition("%")[0])
        return (getattr(address, "ipv4_mapped", None) or address).is_loopback  # ::ffff:127.0.0.1 is 127.0.0.1


@contextmanager
def watched(pid: int | None = None) -> Iterator[set[Listener]]:
    """A set that fills, while the body runs, with all that a process (this one by default) and what it started listen
    on. A process counts for good once it was seen in the tree, since one whose parent ends moves out of it."""
    seen: set[Listener] = set()
    failed: list[Exception] = []
    ended = threading.Event()

    def sample() -> None:
        tree: set[psutil.Process] = set()
        try:
            while not ended.wait(_EVERY_S):
                _grow(tree, pid)
                seen.update(_listeners({process.pid for process in tree}))
        except Exception as error:  # noqa: BLE001 - raised again in the thread that watches
            failed.append(error)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()
    if failed:
        raise failed[0]


def _grow(tree: set[psutil.Process], pid: int | None) -> None:
    """Forget who has ended, add whom the others have started."""
    tree -= {process for process in tree if not process.is_running()}
    if psutil.pid_exists(pid or psutil.Process().pid):
        tree.add(psutil.Process(pid))
    known = {process.pid for process in tree}
    parents = psutil._ppid_map()
    grew = True
    while grew:
        started = {child for child, parent in parents.items() if parent in known and child not in known}
        grew = bool(started)
        known |= started
    for child in known - {process.pid for process in tree}:
        try:
            tree.add(psutil.Process(child))
        except psutil.NoSuchProcess:
            continue


def _listeners(pids: set[int]) -> Iterator[Listener]:
    """What `ss` shows of these processes: TCP sockets that listen, and UDP ones that are bound and not connected."""
    shown = subprocess.run(["ss", "-Hltunp"], capture_output=True, text=True, check=True).stdout
    for line in shown.splitlines():
        protocol, _, _, _, local, *_ = line.split()
        address, _, port = local.rpartition(":")
        for holder in _HOLDER.finditer(line):
            if (held_by := int(holder["pid"])) in pids:
                named = f"{holder['name']} {_command(held_by)}".strip()
                yield Listener(protocol, address.strip("[]"), int(port), named[:160])


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def free_port() -> int:
    """A port of loopback that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
