"""The error tree: every class has the exit code and HTTP status of the contract, every code is a listed word."""

from __future__ import annotations

import re

import pytest

from mlxctl.core import errors
from mlxctl.core.errors import CODES, EXIT_CODES, EXIT_DRIFT, EXIT_OK, MlxctlError


def every_class(root: type[MlxctlError] = MlxctlError) -> list[type[MlxctlError]]:
    return [root, *(found for child in root.__subclasses__() for found in every_class(child))]


CONTRACT = {
    "MlxctlError": (1, 500),
    "UsageError": (2, 400),
    "NotFound": (4, 404),
    "Conflict": (5, 409),
    "Refused": (6, 507),
    "NotReady": (7, 503),
    "Upstream": (8, 502),
    "RegistryUnreadable": (9, 500),
    "Interrupted": (130, 499),
}


def test_the_tree_is_the_contract() -> None:
    assert {found.__name__: (found.exit_code, found.http_status) for found in every_class()} == CONTRACT


def test_the_drawn_tree_says_the_same() -> None:
    drawn = re.findall(r"(\w+) +exit (\d+) +http (\d+)", errors.__doc__ or "")
    assert {name: (int(code), int(status)) for name, code, status in drawn} == CONTRACT


def test_every_exit_code_is_explained_and_every_explained_one_is_used() -> None:
    assert {found.exit_code for found in every_class()} | {EXIT_OK, EXIT_DRIFT} == set(EXIT_CODES)
    assert all(EXIT_CODES.values())


@pytest.mark.parametrize("code", CODES)
def test_a_code_is_one_stable_word_with_a_meaning(code: str) -> None:
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", code)
    assert CODES[code].strip()


@pytest.mark.parametrize("kind", every_class())
def test_an_error_carries_what_a_person_needs(kind: type[MlxctlError]) -> None:
    error = kind("died", "it ended", "look at its log", ("last line",))
    assert (error.code, error.message, error.hint, error.detail) == (
        "died",
        "it ended",
        "look at its log",
        ("last line",),
    )
    assert str(error) == "it ended"
    assert isinstance(error, MlxctlError)


def test_a_code_that_is_not_listed_is_a_defect() -> None:
    with pytest.raises(ValueError, match="not listed in CODES"):
        MlxctlError("made_up", "something happened")
