"""`mlxctl registry validate|backup list|restore`, and what becomes of a file that cannot be read."""

from __future__ import annotations

import json
from datetime import datetime

import pytest

from mlxctl.control.commands.registry import backup_list, restore, validate
from mlxctl.control.store import GENERATIONS
from mlxctl.core.errors import MlxctlError, NotFound, RegistryUnreadable
from tests.fakes.home import Home


def test_a_valid_registry_and_an_absent_one(home: Home) -> None:
    told = validate(home.site())
    assert (told.exit_code, told.data["exists"], told.messages) == (0, False, ("there is no registry yet",))
    home.model("a")
    told = validate(home.site())
    assert (told.exit_code, told.data["exists"], told.data["problems"]) == (0, True, [])
    assert told.messages == (f"{home.registry_path} is valid",)


def test_every_flaw_is_listed(home: Home) -> None:
    home.model("a", port=home.base)
    home.model("b", port=home.base + 1)
    document = json.loads(home.registry_path.read_text())
    document["models"]["mlx-a"] |= {"port": home.base + 1, "priority": "urgent"}
    document["models"]["mlx-c"] = {**document["models"]["mlx-b"], "port": 80}
    home.registry_path.write_text(json.dumps(document))
    told = validate(home.site())
    assert told.exit_code == 9
    assert {problem.code for problem in told.errors} == {"registry_invalid"}
    flaws = " ".join(told.data["problems"])
    for word in ("models.mlx-a.priority", "belongs to both", "model_id is mlx-b", "port 80, outside"):
        assert word in flaws


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"{", "registry_corrupt"),
        (b"", "registry_corrupt"),
        (b"\xff\xfe\x00", "registry_corrupt"),
        (b"[]", "registry_corrupt"),
        (b'{"version": 1}', "registry_corrupt"),
        (b'{"version": 2, "models": {}}', "registry_newer"),
    ],
)
def test_restore_mends_a_file_that_cannot_be_read_and_loses_nothing_of_it(
    home: Home, content: bytes, code: str
) -> None:
    home.model("a")
    home.model("b")
    home.registry_path.write_bytes(content)
    with pytest.raises(RegistryUnreadable) as caught:
        validate(home.site())
    assert caught.value.code == code
    told = restore(home.site(), None)
    assert told.data["models"] == 1
    assert set(home.registry().models) == {"mlx-a"}
    kept = [path.read_bytes() for path in home.hub_cache.rglob("*") if path.is_file()]
    assert content in kept, "what was there can still be looked at"


def test_generations_are_listed_and_any_can_be_put_back(home: Home) -> None:
    assert backup_list(home.site()).messages == ("no generation is kept yet",)
    for name in "abc":
        home.model(name)
    kept = backup_list(home.site()).data["generations"]
    assert [(one["generation"], one["models"]) for one in kept] == [(1, 1), (2, 2)]
    assert all(datetime.fromisoformat(one["written_at"]).tzinfo for one in kept)
    assert restore(home.site(), 1).data["generation"] == 1
    assert set(home.registry().models) == {"mlx-a"}
    assert restore(home.site(), None).data["models"] == 3, "what was there became the newest"
    assert set(home.registry().models) == {"mlx-a", "mlx-b", "mlx-c"}


def test_only_the_last_generations_are_kept(home: Home) -> None:
    for number in range(GENERATIONS + 4):
        home.model(f"m{number}")
    kept = backup_list(home.site()).data["generations"]
    assert len(kept) == GENERATIONS
    assert kept[-1]["models"] == GENERATIONS + 3


@pytest.mark.parametrize("number", [None, 7, 0, -1])
def test_a_generation_that_is_not_kept(home: Home, number: int | None) -> None:
    with pytest.raises(NotFound) as caught:
        restore(home.site(), number)
    assert (caught.value.code, caught.value.exit_code) == ("no_backup", 4)


def test_a_generation_that_breaks_the_rules_is_not_put_back(home: Home) -> None:
    home.model("a")
    home.model("b")
    (generation,) = home.site().store.generations()
    document = json.loads(generation.path.read_text())
    document["models"]["mlx-a"]["port"] = 80
    generation.path.write_text(json.dumps(document))
    before = home.registry_path.read_bytes()
    with pytest.raises(MlxctlError) as caught:
        restore(home.site(), generation.number)
    assert caught.value.code == "registry_invalid"
    assert home.registry_path.read_bytes() == before


def test_the_command_line(home: Home) -> None:
    home.model("a")
    home.model("b")
    assert home.run("registry", "validate").code == 0
    shown = home.run("registry", "backup", "list")
    assert "GENERATION" in shown.out
    assert home.run("registry", "restore", "--json").data["models"] == 1
    assert home.run("registry", "restore", "99", "--json").error["code"] == "no_backup"
    assert home.run("registry", "restore", "x", "--json").code == 2
