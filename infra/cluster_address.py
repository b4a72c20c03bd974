"""The address of the user's Ray cluster; and if the cluster cannot be reached, why, in one line that says what to
type."""

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
# Tells a job's driver the cluster that it belongs to: where several share a machine, Ray's own variable names any.
JOB_CLUSTER_VARIABLE = "PRECEPTOR_JOB_CLUSTER"
_CONNECT_S = 5.0
_ABOUT_A_TOKEN = re.compile(r"unauthenticated|token auth|authentication token|authorization", re.IGNORECASE)
_NO_TOKEN = re.compile(r"(?:no|find an|missing) authentication token", re.IGNORECASE)
_NO_PORT = ("auto",)  # Ray's word for a cluster that this machine is a part of


def named_by_user() -> str | None:
    """The address that the user has set, or None. `local` counts as none: Ray would start a cluster that listens on
    every interface."""
    address = os.environ.get(_VARIABLE, "")
    return address if address not in ("", "local") else None


@contextmanager
def explaining_failures(address: str | None = None, *, for_jobs: bool = True) -> Iterator[None]:
    """Turn whatever the body raises into a ClusterError that says why the cluster does not answer or refuses us.

    address: of a Ray that we started; without it, the address is the user's, and is first tried with a plain
    connection, since Ray would try for half a minute. for_jobs: whether the body submits jobs.
    """
    from ray.exceptions import AuthenticationError

    theirs = None if address else (for_jobs and os.environ.get(_JOBS_VARIABLE)) or named_by_user()
    if theirs:
        _check(theirs, for_jobs=for_jobs)
    try:
        yield
    except PreceptorError:
        raise
    except Exception as error:
        whole = " ".join(map(str, causes(error)))
        if isinstance(error, AuthenticationError) or _ABOUT_A_TOKEN.search(whole):
            said = _token_refused(theirs or "this machine", whole)
        else:
            said = first_line(error) + (f": {in_one_line(error.__cause__)}" if error.__cause__ else "")
            said = _no_answer(theirs, said) if theirs else f"Ray did not start: {said}"
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
        raise ClusterError(_no_answer(address, str(error))) from error


def _no_answer(address: str, reason: str) -> str:
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


def _token_refused(address: str, said: str) -> str:
    """said: by Ray, which calls a wrong token `missing or incorrect` in one place, and `invalid or incorrect` in
    another."""
    has_one = os.environ.get("RAY_AUTH_MODE") == "token" and not _NO_TOKEN.search(said)
    return (
        f"The cluster at {address} {'does not take our token' if has_one else 'wants a token'}: "
        "export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=FILE, with the token that the cluster was started with."
    )
