"""A socket -> HTTP requests for an ASGI application, with time limits on what a client sends and reads.

What is changed about uvicorn is here: `TimeoutProtocol`.
"""

import asyncio
import resource
import socket
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

_HEADERS_TIMEOUT_S = 10.0
_UNREAD_TIMEOUT_S = 60.0
_KEEP_ALIVE_S = 60
_MAX_CONNECTIONS = 4096
_FILES_OF_THE_PROCESS = 2048  # that it has open besides connections, and connections that asyncio accepts at once
_MAX_HEADER_BYTES = 32 << 10
_BACKLOG = 1024


class TimeoutProtocol(H11Protocol):
    """HTTP/1.1 that closes a connection which makes no progress. Uvicorn has no time limit for headers, none for a body
    that continues after its answer, and none for an answer that is not read, not even at shutdown.
    """

    _deadline: asyncio.TimerHandle | None = None
    _unread_deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Called by asyncio."""
        super().connection_made(transport)
        if self.limit_concurrency is not None and len(self.connections) > self.limit_concurrency:
            transport.abort()  # uvicorn counts only connections with a request; the process would run out of files
            return
        transport.set_write_buffer_limits(high=0)  # writing pauses as soon as anything is unread
        self._watch()

    def pause_writing(self) -> None:
        """Called by asyncio when the client reads more slowly than we write."""
        super().pause_writing()
        self._unread_deadline = self.loop.call_later(_UNREAD_TIMEOUT_S, self.transport.abort)

    def resume_writing(self) -> None:
        """Called by asyncio when everything is sent."""
        self._stop_watching_unread()
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio."""
        self._stop_watching()
        self._stop_watching_unread()
        self._unset_keepalive_if_required()  # uvicorn leaves this timer when a client breaks off
        super().connection_lost(exc)

    def _watch(self) -> None:
        """Set a deadline while headers, or the rest of an answered body, are awaited; more bytes do not extend it."""
        awaits_headers = self.conn.their_state is h11.IDLE
        drops_body = self.conn.our_state is h11.DONE and self.conn.their_state is h11.SEND_BODY
        if not (awaits_headers or drops_body):
            self._stop_watching()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(_HEADERS_TIMEOUT_S, self.transport.abort)

    def _stop_watching(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _stop_watching_unread(self) -> None:
        if self._unread_deadline is not None:
            self._unread_deadline.cancel()
            self._unread_deadline = None


def server(app: Any) -> uvicorn.Server:
    """A server for this application that writes no log, trusts no forwarded address, and opens no web sockets."""
    limit = _raise_file_limit()
    config = uvicorn.Config(
        app,
        http=TimeoutProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="critical",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        h11_max_incomplete_event_size=_MAX_HEADER_BYTES,
        limit_concurrency=min(_MAX_CONNECTIONS, max(limit // 2, limit - _FILES_OF_THE_PROCESS)),
    )
    return uvicorn.Server(config)


def _raise_file_limit() -> int:
    """Raise this process's limit of open files to what the connections need, if it may; returns the limit."""
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MAX_CONNECTIONS + _FILES_OF_THE_PROCESS
    limit = wanted if most == resource.RLIM_INFINITY else min(most, wanted)
    if now == resource.RLIM_INFINITY or now >= limit:
        return limit
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, most))
    return limit


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; raises OSError when the address is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(_BACKLOG)
    except OSError:
        listening.close()
        raise
    return listening
