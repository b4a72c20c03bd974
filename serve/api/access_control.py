"""Whether a request may be made, by its headers alone: checked before its body is read and before any answer."""

import hashlib
import hmac
import ipaddress
from http import HTTPStatus
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from infra.errors import ConfigError
from pipelines.inference.backends.client import API_KEY_VARIABLE, api_key
from serve.api.errors import Refused


def digest_key(key: str) -> str:
    """What the endpoint keeps of its key: enough to recognise it, useless to anyone who reads Ray's state."""
    return hashlib.sha256(key.encode()).hexdigest()


def is_loopback(host: str) -> bool:
    """Whether only this machine itself can reach this name or address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def required_key_digest(host: str) -> str | None:
    """The digest of the key that requests must carry, from the environment; None on loopback without a key.

    Raises ConfigError when other machines could reach the endpoint and there is no key.
    """
    key = api_key()
    if not key and not is_loopback(host):
        raise ConfigError(
            f"deploy.host={host} lets other machines ask the models, so it needs a key: "
            f"export {API_KEY_VARIABLE}=$(openssl rand -hex 32)"
        )
    return digest_key(key) if key else None


_PROXY_HEADERS = ("forwarded", "x-forwarded-for", "x-real-ip", "via")


class AccessControl:
    """Checks the headers of every request. key_digest: of the key that it must carry; None takes only this machine."""

    def __init__(self, key_digest: str | None) -> None:
        self._key_digest = key_digest

    def check(self, headers: Headers) -> None:
        """Raise Refused for a request that may not be made."""
        self._check_origin(headers)
        if self._key_digest is None:
            self._check_host(headers)
        else:
            self._check_key(headers)

    def _check_key(self, headers: Headers) -> None:
        scheme, _, key = headers.get("authorization", "").partition(" ")
        given = key.strip() if scheme.lower() == "bearer" else ""
        if not given or not hmac.compare_digest(digest_key(given), str(self._key_digest)):
            raise Refused(HTTPStatus.UNAUTHORIZED, "This endpoint needs its API key: Authorization: Bearer KEY")

    def _check_host(self, headers: Headers) -> None:
        """Without a key only this machine may ask. A web site can point its own name at this machine (DNS rebinding);
        the browser then sends that name as the host.
        """
        host = headers.get("host", "")
        if any(name in headers for name in _PROXY_HEADERS):
            raise Refused(
                HTTPStatus.FORBIDDEN,
                "A proxy passes on what others ask, so the endpoint needs a key: its owner exports PRECEPTOR_API_KEY.",
            )
        if not is_loopback(_hostname(host)):
            raise Refused(
                HTTPStatus.MISDIRECTED_REQUEST, f"This endpoint is not {host[:80]!r}: ask it as 127.0.0.1 or localhost."
            )

    def _check_origin(self, headers: Headers) -> None:
        """A browser names the site whose page asks; only the endpoint's own pages may."""
        origin = headers.get("origin")
        if origin is not None and _site(origin) != headers.get("host", "").lower():
            raise Refused(HTTPStatus.FORBIDDEN, "Web pages of other sites may not ask this endpoint.")


def _hostname(host: str) -> str:
    """A Host header without its port; empty for one that holds more than a name and a port."""
    if set(host) & set("@/\\?#"):
        return ""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _site(origin: str) -> str:
    """The host and port of an origin, empty where it has none."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""
