"""What a machine's settings would do to us, set right for this process and all that it starts: proxies, and the folder
for temporary files."""

import atexit
import os
import tempfile
from contextlib import ExitStack
from pathlib import Path

from infra import leftovers

# What no proxy is asked for. The last two are clouds' metadata services, which Ray's dashboard looks for.
_WITHOUT_PROXY = ("127.0.0.1", "localhost", "::1", "169.254.169.254", "metadata.google.internal")
# The path of a socket has 107 bytes at most, of which vLLM and Python's multiprocessing take up to 37 for its name.
_MOST_BYTES = 64
_SHORT = "/tmp"  # noqa: S108 - what is made in it is private
_PREFIX = "preceptor-tmp-"


def settle() -> None:
    """Keep what is sent to this machine from every proxy, and give sockets a folder whose name is short enough."""
    os.environ.update(without_proxy())
    _shorten()


def without_proxy() -> dict[str, str]:
    """Variables that keep what is sent to this machine from a proxy; what the user excepts from it stays excepted."""
    excepted = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    hosts = [host for host in excepted.split(",") if host]
    everything = ["*"] if "*" in hosts else []  # which has to stand alone
    joined = ",".join(everything or [*hosts, *(host for host in _WITHOUT_PROXY if host not in hosts)])
    return {"no_proxy": joined, "NO_PROXY": joined}


def _shorten() -> None:
    """Call the folder for temporary files by a short name, through a link, where its own is too long: the files stay on
    the disk that the user has chosen."""
    wanted = os.environ.get("TMPDIR", "")
    if len(os.fsencode(wanted)) <= _MOST_BYTES:
        return
    leftovers.remove(Path(_SHORT), f"{_PREFIX}*")
    try:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=_SHORT))
    except OSError:
        return  # there is no better place
    link = folder / "t"
    link.symlink_to(Path(wanted).absolute())
    os.environ["TMPDIR"] = str(link)
    tempfile.tempdir = None  # else what was found before stays
    as_long_as_we_live = ExitStack()
    as_long_as_we_live.callback(_remove, folder, link, os.getpid())
    as_long_as_we_live.enter_context(leftovers.held(folder))
    atexit.register(as_long_as_we_live.close)


def _remove(folder: Path, link: Path, made_by: int) -> None:
    if os.getpid() == made_by:  # a fork ends with the functions of the process that it was forked from
        link.unlink(missing_ok=True)
        folder.rmdir()
