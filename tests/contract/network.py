"""A server that is as good as none."""

from __future__ import annotations

import socket
from types import TracebackType
from typing import Self


class BlackHole:
    """A port that takes connections and never says a word. Closed, it is a port where nobody listens."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._socket.setblocking(False)
        self._taken: list[socket.socket] = []
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for taken in (self._socket, *self._taken):
            taken.close()

    @property
    def connections(self) -> int:
        """How many there were so far."""
        try:
            while True:
                self._taken.append(self._socket.accept()[0])
        except BlockingIOError:
            return len(self._taken)
