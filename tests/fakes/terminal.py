"""The real command line on a pseudo-terminal, as a person has it: what it shows, what is typed, and hanging up."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Self

from tests.fakes.home import Home

CTRL_C = "\x03"


@dataclass
class Terminal:
    """`shown` is everything so far, control codes included. Standard input, output and error are the terminal."""

    child: subprocess.Popen[bytes]
    screen: int
    shown: str = ""
    hung_up: bool = field(default=False)

    @classmethod
    @contextlib.contextmanager
    def run(cls, home: Home, *argv: str, columns: int = 120, **more: str) -> Iterator[Self]:
        screen, line = pty.openpty()
        fcntl.ioctl(line, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        env = home.env(TERM="xterm-256color", **more)
        env.pop("COLUMNS", None)
        child = subprocess.Popen(
            # the new session takes the terminal as its own, so that Ctrl-C and hanging up become signals
            [sys.executable, "-c", "import sys; from tests.fakes.terminal import adopt; adopt(sys.argv[1:])", *argv],
            env=env,
            stdin=line,
            stdout=line,
            stderr=line,
            start_new_session=True,
        )
        os.close(line)
        terminal = cls(child, screen)
        try:
            yield terminal
        finally:
            if child.poll() is None:
                child.kill()
            child.wait()
            terminal.hang_up()

    def type(self, text: str) -> None:
        os.write(self.screen, text.encode())

    def wait_for(self, text: str, within_s: float = 15.0) -> None:
        limit = time.monotonic() + within_s
        while text not in self.shown:
            assert time.monotonic() < limit and self.read(0.1), f"{text!r} was never shown: {self.shown!r}"

    def end(self, within_s: float = 30.0) -> int:
        """Read on until the command has ended; its exit code."""
        limit = time.monotonic() + within_s
        while self.read(0.1):
            assert time.monotonic() < limit, self.shown
        return self.child.wait(within_s)

    def hang_up(self) -> None:
        """Close the window, or lose the SSH connection."""
        if not self.hung_up:
            os.close(self.screen)
            self.hung_up = True

    def read(self, within_s: float) -> bool:
        """Take what is there; False when the command has closed its end."""
        if not select.select([self.screen], [], [], within_s)[0]:
            return True
        try:
            data = os.read(self.screen, 65536)
        except OSError:
            # Linux says so when the last process has closed the terminal
            return False
        self.shown += data.decode(errors="replace")
        return bool(data)


def adopt(argv: list[str]) -> None:
    """In the child: make standard input the terminal of this session, then become the command line."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    os.execv(sys.executable, [sys.executable, "-m", "mlxctl", *argv])
