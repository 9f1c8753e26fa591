"""A wire between a client and a server that a test can cut, freeze, slow down, and lose answers on."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

HOST = "127.0.0.1"
CHUNK = 1 << 16
_RESET = struct.pack("ii", 1, 0)

# (host, port), or the path of a Unix socket.
Address = tuple[str, int] | str
# Asked with what a client sends: is its answer to be lost?
LosesAnswer = Callable[[bytes], bool]


class Proxy:
    """Listens on a port of its own and passes on to a server what it is told there.

    Each connection has two threads. A wire that is frozen holds back what it is given, as a network that
    drops packets does, and delivers it when it thaws.
    """

    def __init__(self, server: Address) -> None:
        self._server = server
        self._lock = threading.Lock()
        self._open = threading.Event()
        self._open.set()
        self._pairs: list[_Pair] = []
        self.delay_s = 0.0
        self.loses_answer: LosesAnswer = lambda sent: False
        self.answers_lost = 0
        self.seen: Callable[[bytes], None] = lambda sent: None
        self._listener = self._listen(0)
        self.port: int = self._listener.getsockname()[1]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def freeze(self) -> None:
        """Deliver nothing any more; new connections are taken, and hear nothing either."""
        self._open.clear()

    def thaw(self) -> None:
        """Deliver again, beginning with what was held back."""
        self._open.set()

    def cut(self) -> None:
        """Reset all connections; new ones may be made."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            pair.reset()

    def take_down(self) -> None:
        """Reset all connections, and refuse new ones until `put_up`."""
        # shutdown, not only close: the thread that accepts holds the port until it wakes up.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def put_up(self) -> None:
        self._listener = self._listen(self.port)

    def close(self) -> None:
        self.take_down()
        self.thaw()

    def _listen(self, port: int) -> socket.socket:
        listener = socket.create_server((HOST, port), backlog=128)
        threading.Thread(target=self._accept, args=(listener,), name="proxy-accept", daemon=True).start()
        return listener

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                self._connect(client)

    def _connect(self, client: socket.socket) -> None:
        try:
            server = _connection_to(self._server)
        except OSError:
            _reset(client)
            return
        pair = _Pair(client, server)
        with self._lock:
            self._pairs = [known for known in self._pairs if not known.ended]
            self._pairs.append(pair)
        for work in (self._forward, self._return):
            threading.Thread(target=work, args=(pair,), name="proxy", daemon=True).start()

    def _forward(self, pair: _Pair) -> None:
        """Carry what the client says."""
        with pair.ending():
            while sent := pair.client.recv(CHUNK):
                self._wait()
                self.seen(sent)
                if self.loses_answer(sent):
                    pair.deaf.set()
                pair.server.sendall(sent)

    def _return(self, pair: _Pair) -> None:
        """Carry what the server answers. A lost answer is one that came: what was asked for has happened."""
        with pair.ending():
            while answer := pair.server.recv(CHUNK):
                if pair.deaf.is_set():
                    self.answers_lost += 1
                    pair.reset()
                    return
                self._wait()
                pair.client.sendall(answer)

    def _wait(self) -> None:
        if self.delay_s:
            time.sleep(self.delay_s)
        self._open.wait()


class _Pair:
    """The two ends of one connection."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client, self.server = client, server
        self.deaf = threading.Event()
        self.ended = False

    def reset(self) -> None:
        self.ended = True
        for end in (self.client, self.server):
            _reset(end)

    @contextlib.contextmanager
    def ending(self) -> Iterator[None]:
        """When one end hangs up, so does the other."""
        with contextlib.suppress(OSError):
            yield
        self.ended = True
        for end in (self.client, self.server):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


def _connection_to(server: Address) -> socket.socket:
    if not isinstance(server, str):
        made = socket.create_connection(server, timeout=5.0)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        made.settimeout(None)
        return made
    made = socket.socket(socket.AF_UNIX)
    made.connect(server)
    return made


def _reset(end: socket.socket) -> None:
    """Close so that the peer hears of it at once and not in good order."""
    with contextlib.suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RD)
    end.close()
