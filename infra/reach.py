"""Whether the user's cluster can be reached; and if not, why, in one line that says what to type."""

import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib import request
from urllib.parse import urlsplit

from infra.errors import ClusterError, PreceptorError, causes, first_line, in_one_line
from infra.redaction import redacted

_VARIABLE, _JOBS_VARIABLE = "RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"  # jobs go to the second where it is set
# The cluster of a job, for its driver. Where several share a machine, Ray's own word to a driver names any of them.
OWN_VARIABLE = "PRECEPTOR_JOB_CLUSTER"
_CONNECT_S = 5.0
_OF_A_TOKEN = re.compile(r"unauthenticated|token auth|authentication token|authorization", re.IGNORECASE)
_NO_TOKEN = re.compile(r"(?:no|find an|missing) authentication token", re.IGNORECASE)
_NO_PORT = ("auto",)  # Ray's word for a cluster that this machine is a part of


def named() -> str | None:
    """The cluster that the user names. `local` names none: Ray would start one that listens on every interface."""
    address = os.environ.get(_VARIABLE, "")
    return address if address not in ("", "local") else None


@contextmanager
def telling_why(address: str | None = None, *, for_jobs: bool = True) -> Iterator[None]:
    """Raise ClusterError for whatever the body raises because the cluster does not answer or does not take us.

    address: of a Ray of our own; else it is the user's, and first of all is seen whether anybody listens there, since
    Ray would try for half a minute.
    """
    from ray.exceptions import AuthenticationError

    theirs = None if address else (for_jobs and os.environ.get(_JOBS_VARIABLE)) or named()
    if theirs:
        _check(theirs, for_jobs=for_jobs)
    try:
        yield
    except PreceptorError:
        raise
    except Exception as error:
        whole = " ".join(map(str, causes(error)))
        if isinstance(error, AuthenticationError) or _OF_A_TOKEN.search(whole):
            said = _about_the_token(theirs or "this machine", whole)
        else:
            said = first_line(error) + (f": {in_one_line(error.__cause__)}" if error.__cause__ else "")
            said = _nobody(theirs, said) if theirs else f"Ray did not start: {said}"
        raise ClusterError(said) from error


def _check(address: str, *, for_jobs: bool) -> None:
    scheme, _, rest = address.rpartition("://")
    if scheme in ("http", "https"):
        if not for_jobs:
            raise ClusterError(
                f"RAY_ADDRESS={address} is where a cluster takes jobs, and a stage by itself is none. Run the whole "
                "flow; or the stage on a machine of the cluster, with RAY_ADDRESS=auto; or unset RAY_ADDRESS to use "
                "this machine."
            )
        return  # a request to it has a limit of its own, and may have to go through a proxy
    if rest in _NO_PORT:
        return
    host, _, port = rest.partition("/")[0].rpartition(":")
    if not host or not port.isdecimal():
        raise ClusterError(
            f"RAY_ADDRESS={address} is no address: write http://HEAD:8265, or HEAD:6379 on the cluster itself."
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise ClusterError(_nobody(address, str(error))) from error


def _nobody(address: str, reason: str) -> str:
    said = f"No cluster answers at RAY_ADDRESS={address} ({reason.rstrip('.')})."
    if proxy := _proxy(address):
        host = address.rpartition("://")[2].partition("/")[0].rpartition(":")[0]
        said += f" It was asked through the proxy {redacted(proxy)}; to ask it directly: export no_proxy={host}."
    return f"{said} Start it, mend the address, or unset RAY_ADDRESS to use this machine."


def _proxy(address: str) -> str | None:
    """The proxy that requests to this address go through."""
    url = urlsplit(address)
    if url.scheme not in ("http", "https") or request.proxy_bypass(url.netloc):
        return None
    proxies = request.getproxies()
    return proxies.get(url.scheme) or proxies.get("all")


def _about_the_token(address: str, said: str) -> str:
    """said: by Ray, which calls a wrong token `missing or incorrect` in one place, and `invalid or incorrect` in
    another."""
    has_one = os.environ.get("RAY_AUTH_MODE") == "token" and not _NO_TOKEN.search(said)
    return (
        f"The cluster at {address} {'does not take our token' if has_one else 'wants a token'}: "
        "export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=FILE, with the token that the cluster was started with."
    )
