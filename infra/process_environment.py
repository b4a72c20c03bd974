"""Environment variables of this process and all that it starts, set right where the machine's settings would break us:
proxies, and the folder for temporary files."""

import atexit
import os
import tempfile
from contextlib import ExitStack
from pathlib import Path

from infra import leftovers

# Hosts that are never reached through a proxy. The last two are clouds' metadata services, which Ray's dashboard asks.
_WITHOUT_PROXY = ("127.0.0.1", "localhost", "::1", "169.254.169.254", "metadata.google.internal")
# The path of a socket has 107 bytes at most, of which vLLM and Python's multiprocessing take up to 37 for its name.
_MOST_BYTES = 64
_SHORT = "/tmp"  # noqa: S108 - what is made in it is private
_PREFIX = "preceptor-tmp-"


def set_up() -> None:
    """Reach this machine without a proxy, and give sockets a folder whose name is short enough."""
    os.environ.update(no_proxy_variables())
    _shorten_temporary_folder()


def no_proxy_variables() -> dict[str, str]:
    """Variables by which requests to this machine go to no proxy; hosts that the user has excepted stay excepted."""
    excepted = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    hosts = [host for host in excepted.split(",") if host]
    everything = ["*"] if "*" in hosts else []  # which has to stand alone
    joined = ",".join(everything or [*hosts, *(host for host in _WITHOUT_PROXY if host not in hosts)])
    return {"no_proxy": joined, "NO_PROXY": joined}


def _shorten_temporary_folder() -> None:
    """Use the folder for temporary files through a link with a short name where its own is too long: the files stay on
    the disk that the user has chosen."""
    wanted = os.environ.get("TMPDIR", "")
    if len(os.fsencode(wanted)) <= _MOST_BYTES:
        return
    leftovers.remove_unlocked(Path(_SHORT), f"{_PREFIX}*")
    try:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=_SHORT))
    except OSError:
        return  # there is no better place
    link = folder / "t"
    link.symlink_to(Path(wanted).absolute())
    os.environ["TMPDIR"] = str(link)
    tempfile.tempdir = None  # otherwise Python keeps the folder that it found before
    until_exit = ExitStack()
    until_exit.callback(_remove, folder, link, os.getpid())
    until_exit.enter_context(leftovers.locked(folder))
    atexit.register(until_exit.close)


def _remove(folder: Path, link: Path, made_by: int) -> None:
    if os.getpid() == made_by:  # a fork runs the exit functions of its parent, too
        link.unlink(missing_ok=True)
        folder.rmdir()
