"""The forty ports: which words name one, which range a port is in, and what `auto` tries."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxctl.core.errors import Conflict, UsageError
from mlxctl.core.ports import EXPERIMENTAL, TEAM, Ports

PORTS = Ports()


@pytest.mark.parametrize("word", ["8100", "8109", "8110", "8119", "8120", "8139", "08120"])
def test_a_word_that_is_a_port(word: str) -> None:
    assert PORTS.parse(word) == int(word)


@pytest.mark.parametrize(
    "word",
    [
        "8099",
        "8140",
        "0",
        "-8120",
        "+8120",
        "8120.0",
        "8_120",
        " 8120",
        "8120\n",
        "",
        "abc",
        "auto",
        "0x1fb8",
        pytest.param("\u0668\u0661\u0662\u0660", id="arabic digits"),
        pytest.param("\uff18\uff11\uff12\uff10", id="fullwidth digits"),
        "²",
        pytest.param("9" * 5000, id="five thousand digits"),
    ],
)
def test_a_word_that_is_no_port_says_which_are(word: str) -> None:
    with pytest.raises(UsageError) as caught:
        PORTS.parse(word)
    assert caught.value.code == "bad_port"
    assert "8100-8139" in caught.value.message
    assert all(part in caught.value.hint for part in ("auto", "8100-8119", "8120-8139"))


@given(st.text(max_size=8) | st.integers(-1, 70000).map(str))
def test_any_word_is_a_port_of_ours_or_a_usage_error(word: str) -> None:
    try:
        assert PORTS.parse(word) in PORTS
    except UsageError as error:
        assert error.code == "bad_port"


@pytest.mark.parametrize(
    ("port", "range_name"),
    [(8100, TEAM), (8109, TEAM), (8110, TEAM), (8119, TEAM), (8120, EXPERIMENTAL), (8139, EXPERIMENTAL)],
)
def test_range_of_a_port(port: int, range_name: str) -> None:
    assert PORTS.range_of(port) == range_name


@pytest.mark.parametrize("thing", [8099, 8140, "8100", 8100.0, None, True])
def test_what_is_no_port_is_not_in_the_range(thing: object) -> None:
    assert thing not in PORTS


def test_there_are_forty_in_order() -> None:
    assert list(PORTS) == list(range(8100, 8140))
    assert PORTS.last == 8139


@pytest.mark.parametrize(
    ("taken", "tried"),
    [
        ((), [8120, 8121, 8122]),
        ((8120, 8122), [8121, 8123, 8124]),
        ((8100, 8101), [8120, 8121, 8122]),
        (range(8120, 8138), [8138, 8139]),
        (range(8120, 8140), []),
    ],
)
def test_auto_tries_the_lowest_free_experimental_ports(taken: range | tuple[int, ...], tried: list[int]) -> None:
    assert list(PORTS.free_experimental(taken))[:3] == tried


def test_none_free_names_the_range_and_a_way_out() -> None:
    error = PORTS.none_free()
    assert isinstance(error, Conflict)
    assert (error.code, error.exit_code) == ("no_free_port", 5)
    assert "8120-8139" in error.message
    assert "unload" in error.hint


def test_a_moved_base_moves_everything() -> None:
    moved = Ports(20000)
    assert moved.parse("20039") == 20039
    assert moved.range_of(20019) == TEAM
    assert next(moved.free_experimental({20020})) == 20021
    with pytest.raises(UsageError, match="20000-20039"):
        moved.parse("8100")


@pytest.mark.parametrize("base", [-5, 0, 65497, 99999])
def test_a_base_without_forty_ports_after_it_names_its_variable(base: int) -> None:
    with pytest.raises(UsageError, match=str(base)) as caught:
        Ports(base)
    assert caught.value.code == "bad_setting"
    assert "MLXCTL_PORT_BASE" in caught.value.hint
    assert Ports(65496).last == 65535
