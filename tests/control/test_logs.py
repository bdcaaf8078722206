"""Reading a log that is written and rotated at the same time."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from mlxctl.control.logs import TAIL_BLOCK, follow, last_lines


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "mlx-8120.log"


def rotate(log: Path) -> None:
    os.replace(log, log.with_name(log.name + ".1"))


LONG = "".join(f"{number} {'x' * 90}\n" for number in range(3000))


@pytest.mark.parametrize(
    ("older", "newest", "count", "expected"),
    [
        (None, "a\nb\nc\n", 2, ("b", "c")),
        (None, "a\nb\nc\n", 9, ("a", "b", "c")),
        (None, "a\nb\nc\n", 0, ()),
        (None, "a\nb\nunfinished", 2, ("b", "unfinished")),
        (None, "", 3, ()),
        (None, None, 3, ()),
        ("1\n2\n3\n", "4\n", 2, ("3", "4")),
        ("1\n2\n3\n", "4\n5\n", 2, ("4", "5")),
        ("1\n2\n3\n", "", 2, ("2", "3")),
        ("1\n2\n3\n", None, 9, ("1", "2", "3")),
        ("1\n2\nbroken off by the ro", "tation\n4\n", 2, ("tation", "4")),
        ("1\n2\nbroken off by the ro", "tation\n4\n", 3, ("2", "broken off by the rotation", "4")),
        (None, "a\n\n\nb\n", 3, ("", "", "b")),
        (None, "caf\udce9\nend\n", 2, ("caf\ufffd", "end")),
        (None, LONG, 2, tuple(LONG.splitlines()[-2:])),
        (None, LONG, 2500, tuple(LONG.splitlines()[-2500:])),
        (LONG, LONG, 4000, tuple((LONG + LONG).splitlines()[-4000:])),
        (None, "y" * (3 * TAIL_BLOCK), 1, ("y" * (3 * TAIL_BLOCK),)),
    ],
)
def test_last_lines(log: Path, older: str | None, newest: str | None, count: int, expected: tuple[str, ...]) -> None:
    for path, text in ((log.with_name(log.name + ".1"), older), (log, newest)):
        if text is not None:
            path.write_bytes(text.encode(errors="surrogateescape"))
    assert last_lines(log, count) == expected


def test_the_end_of_a_huge_log_is_read_without_its_beginning(log: Path) -> None:
    with log.open("wb") as file:
        file.truncate(5 << 30)  # a hole: five gigabytes that would not fit through a read
        file.seek(0, 2)
        file.write(b"\nthe end\n")
    assert last_lines(log, 1) == ("the end",)


def write(log: Path, text: str) -> None:
    with log.open("a") as file:
        file.write(text)


def test_follow_tells_new_lines_and_only_whole_ones(log: Path) -> None:
    log.write_text("old\n")
    lines = follow(log, poll_s=0.01)
    threading.Timer(0.1, write, (log, "new\nhalf")).start()
    assert next(lines) == "new"
    threading.Timer(0.1, write, (log, " and half\n\nafter an empty one\n")).start()
    assert [next(lines) for _ in range(3)] == ["half and half", "", "after an empty one"]
    lines.close()


def test_follow_goes_on_with_the_new_file_after_a_rotation(log: Path) -> None:
    log.write_text("old\n")
    lines = follow(log, poll_s=0.01)

    def rotated() -> None:
        write(log, "last of the old\nbroken off by the ro")
        rotate(log)
        write(log, "tation\nfirst of the new\n")

    threading.Timer(0.1, rotated).start()
    expected = ["last of the old", "broken off by the rotation", "first of the new"]
    assert [next(lines) for _ in range(3)] == expected
    lines.close()


def test_follow_loses_nothing_over_many_rotations(log: Path) -> None:
    """The shim writes faster than a reader polls, but a rotated file stays readable through its open descriptor."""
    log.write_text("")
    lines = follow(log, poll_s=0.001)
    told: list[str] = []

    def reader() -> None:
        for line in lines:
            told.append(line)
            if line == "stop":
                return

    thread = threading.Thread(target=reader)
    thread.start()
    numbers = [str(number) for number in range(200)]
    pause = threading.Event()
    while not told:
        # it follows from the moment in which it first looks
        write(log, "ping\n")
        pause.wait(0.01)
    for number in numbers:
        write(log, number + "\n")
        pause.wait(0.002)
        if int(number) % 20 == 19:
            pause.wait(0.05)
            rotate(log)
            log.touch()
            pause.wait(0.05)
    write(log, "stop\n")
    thread.join(5)
    assert [line for line in told if line != "ping"] == [*numbers, "stop"]


def test_follow_waits_while_there_is_no_file_for_a_moment(log: Path) -> None:
    log.write_text("")
    lines = follow(log, poll_s=0.01)

    def rotated() -> None:
        rotate(log)
        threading.Event().wait(0.1)
        write(log, "back\n")

    threading.Timer(0.1, rotated).start()
    assert next(lines) == "back"
    lines.close()


def test_what_is_written_between_a_look_and_the_rotation_is_not_lost(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The moment is forced: whenever the follower looks whether the file was rotated, it just is being."""
    log.write_text("")
    lines = follow(log, poll_s=0.001)
    look = Path.stat

    def stat(path: Path, **given: bool) -> os.stat_result:
        if path == log and not log.with_name(log.name + ".1").exists():
            write(log, "last of the old\n")
            rotate(log)
            write(log, "first of the new\n")
        return look(path, **given)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "stat", stat)
        told = [next(lines) for _ in range(2)]
    lines.close()
    assert told == ["last of the old", "first of the new"]
