"""Finds `templates/`, `launchd/` and the example registry: beside the package in a checkout, inside it in a wheel."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parent


def asset(name: str) -> Path:
    """The path of "templates", "launchd" or "registry.example.json"."""
    packed = _PACKAGE / "_assets" / name
    return packed if packed.exists() else _PACKAGE.parent / name
