"""A server that sends back exactly the bytes that a test gives it, then closes the connection."""

from __future__ import annotations

import json
import socket
import threading
from dataclasses import dataclass, field
from typing import Any, Self


def answer(body: str, status: str = "200 OK", **headers: str) -> bytes:
    """A whole HTTP answer, its end told by closing."""
    lines = [f"HTTP/1.1 {status}", "Connection: close", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", body]).encode()


def events(*data: object, done: bool = True) -> bytes:
    """A stream of server-sent events; text is sent as it is, anything else as JSON."""
    lines = [f"data: {item if isinstance(item, str) else json.dumps(item)}\n\n" for item in data]
    return answer("".join(lines) + ("data: [DONE]\n\n" if done else ""), **{"Content-Type": "text/event-stream"})


@dataclass
class Scripted:
    """Each connection gets `reply`. `asked` holds the bodies that were sent."""

    reply: bytes
    asked: list[Any] = field(default_factory=list)

    def __enter__(self) -> Self:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self.listener.getsockname()[1])
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join(5)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with connection:
                self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        with connection.makefile("rb") as file:
            length = 0
            while (line := file.readline().strip()) != b"":
                name, _, value = line.partition(b":")
                length = int(value) if name.lower() == b"content-length" else length
            if length:
                self.asked.append(json.loads(file.read(length)))
        connection.sendall(self.reply)
