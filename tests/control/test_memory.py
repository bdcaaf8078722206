"""How much a model may weigh, and how sizes are told to people."""

from __future__ import annotations

import pytest

from mlxctl.control.memory import admission, human_bytes

GB = 10**9


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (340_000_000, "340.0 MB"),
        (1_250_000_000, "1.2 GB"),
        (65 * GB, "65.0 GB"),
        (2500 * GB, "2.5 TB"),
        (-1500, "-2 kB"),
    ],
)
def test_human_bytes(count: int, shown: str) -> None:
    assert human_bytes(count) == shown


@pytest.mark.parametrize(
    ("weight", "available", "freed", "fits"),
    [
        (0, 0, 0, True),
        (8 * GB, 16 * GB, 0, True),
        (16 * GB, 16 * GB, 0, True),
        (16 * GB + 1, 16 * GB, 0, False),
        (65 * GB, 16 * GB, 0, False),
        (65 * GB, 16 * GB, 60 * GB, True),
        (65 * GB, 4 * GB, 60 * GB, False),
    ],
)
def test_admission(weight: int, available: int, freed: int, fits: bool) -> None:
    refused = admission("mlx-a", weight, available, freed)
    assert (refused is None) == fits
    if refused is not None:
        assert (refused.code, refused.exit_code, refused.http_status) == ("not_enough_memory", 6, 507)
        assert f"weighs {human_bytes(weight)}, but only {human_bytes(available + freed)}" in refused.message
        assert "--force" in refused.hint
