"""The registry's store: transactions, generations, and what a write that cannot be done leaves behind."""

from __future__ import annotations

import json
import stat
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import filelock
import pytest

from mlxctl.control import store as store_module
from mlxctl.control.store import GENERATIONS, RegistryStore
from mlxctl.core.ports import Ports
from mlxctl.core.registry import Registry
from tests.fakes.home import Home
from tests.fakes.stores import add, entry, everything_below, refused


@pytest.fixture
def store(tmp_path: Path) -> RegistryStore:
    return RegistryStore(tmp_path / "hub" / "registry.json", Ports())


def test_an_absent_file_is_an_empty_registry_and_reading_makes_none(store: RegistryStore) -> None:
    assert store.read().models == {}
    assert not store.path.parent.exists()
    assert store.problems() == []
    assert store.generations() == []


def test_the_first_write_makes_the_folder_and_a_private_file(store: RegistryStore) -> None:
    store.update(lambda registry: registry)
    assert json.loads(store.path.read_text()) == {"version": 1, "models": {}}
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o600
    assert store.generations() == [], "there was nothing before it"


def test_a_transaction_returns_what_it_wrote(store: RegistryStore) -> None:
    written = store.update(lambda registry: registry.with_entry(entry("a", 8120)))
    assert store.read() == written
    assert written.at(8120) == entry("a", 8120)


def test_unknown_fields_and_their_order_survive_a_change(store: RegistryStore) -> None:
    store.path.parent.mkdir()
    old = {"site": "attic", "version": 1, "models": {"mlx-a": {"note": "ours", **entry("a").to_json(), "tags": ["x"]}}}
    store.path.write_text(json.dumps(old))
    store.update(lambda registry: registry.assign("mlx-a", 8120))
    now = json.loads(store.path.read_text())
    assert list(now) == ["site", "version", "models"]
    assert next(iter(now["models"]["mlx-a"])) == "note"
    old["models"]["mlx-a"]["port"] = 8120  # type: ignore[index]
    assert now == old


def test_an_unchanged_registry_is_not_written(store: RegistryStore) -> None:
    add(store, "a")
    before, times = everything_below(store.path.parent), store.path.stat().st_mtime_ns
    inode = store.path.stat().st_ino
    store.update(lambda registry: registry.with_entry(entry("a")))
    assert everything_below(store.path.parent) == before
    assert (store.path.stat().st_mtime_ns, store.path.stat().st_ino) == (times, inode)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda r: r.with_entry(entry("b", 9000)), "port 9000, outside 8100-8139"),
        (lambda r: r.with_entry(entry("b", 8101)), "port 8101 belongs to both mlx-a and mlx-b"),
        (lambda r: replace(r, models={"mlx-x": entry("b")}), "says that its model_id is mlx-b"),
        (lambda r: r.with_entry(replace(entry("b"), model_id="B")), "models.B is not a valid id"),
        (lambda r: r.with_entry(replace(entry("b"), context_length=0)), "models.mlx-b.context_length: "),
        (lambda r: r.with_entry(replace(entry("b"), engine="vllm")), "models.mlx-b.engine: "),
        (lambda r: r.with_entry(replace(entry("b"), repo_id="")), "models.mlx-b.repo_id: "),
    ],
)
def test_what_breaks_the_registry_is_not_written(
    store: RegistryStore, change: Callable[[Registry], Registry], told: str
) -> None:
    store.update(lambda registry: registry.with_entry(entry("a", 8101)))
    before = everything_below(store.path.parent)
    error = refused(lambda: store.update(change))
    assert (error.code, error.exit_code) == ("registry_invalid", 9)
    assert told in error.message
    assert everything_below(store.path.parent) == before


def test_a_change_that_raises_writes_nothing_and_frees_the_lock(store: RegistryStore) -> None:
    add(store, "a")
    before = everything_below(store.path.parent)
    with pytest.raises(ZeroDivisionError):
        store.update(lambda _: 1 // 0)  # type: ignore[arg-type, return-value]
    assert everything_below(store.path.parent) == before
    add(store, "b")


def test_ten_generations_are_kept_and_numbers_only_grow(store: RegistryStore) -> None:
    names = [f"m{number}" for number in range(GENERATIONS + 5)]
    add(store, *names)
    kept = store.generations()
    assert [generation.number for generation in kept] == list(range(5, GENERATIONS + 5))
    # the generation that the n-th write leaves is what was there before it: n models
    assert [generation.models for generation in kept] == [generation.number for generation in kept]
    assert len(list(store.backups.iterdir())) == GENERATIONS == 10
    assert all(abs(time.time() - generation.written_at) < 60 for generation in kept)


def test_a_torn_generation_is_left_out_and_does_not_disturb(store: RegistryStore) -> None:
    add(store, "a", "b", "c")
    (store.backups / "2.json").write_text("{")
    (store.backups / "7.json").write_bytes(b"\xff\xfe")
    (store.backups / ".2.json.leftover").write_text("{}")
    assert [generation.number for generation in store.generations()] == [1]
    add(store, "d")
    assert [generation.number for generation in store.generations()] == [1, 8]


@pytest.mark.parametrize(("number", "models"), [(None, {"mlx-a", "mlx-b"}), (2, {"mlx-a", "mlx-b"}), (1, {"mlx-a"})])
def test_restore_puts_a_generation_back_and_keeps_what_was_there(
    store: RegistryStore, number: int | None, models: set[str]
) -> None:
    add(store, "a", "b", "c")
    now = store.path.read_bytes()
    restored = store.restore(number)
    assert restored.number == (number or 2)
    assert set(store.read().models) == models
    assert (store.backups / "3.json").read_bytes() == now
    store.restore(3)
    assert store.path.read_bytes() == now


def test_restore_of_what_is_not_kept(store: RegistryStore) -> None:
    error = refused(lambda: store.restore(None))
    assert (error.code, error.exit_code, error.message) == ("no_backup", 4, "no generation is kept")
    add(store, "a", "b")
    assert "generation 7 is not kept" in refused(lambda: store.restore(7)).message
    assert set(store.read().models) == {"mlx-a", "mlx-b"}


def test_restore_repairs_a_corrupt_registry(store: RegistryStore) -> None:
    add(store, "a", "b")
    store.path.write_text('{"version": 1, "models": ')
    store.restore(None)
    assert set(store.read().models) == {"mlx-a"}


UNREADABLE = {
    "torn JSON": (b'{"version": 1, "models": {"mlx-a"', "registry_corrupt"),
    "empty": (b"", "registry_corrupt"),
    "no UTF-8": (b'{"version": 1, "models": {"\xff": 1}}', "registry_corrupt"),
    "a list": (b"[]", "registry_corrupt"),
    "no models": (b'{"version": 1}', "registry_corrupt"),
    "two models on one port": (
        json.dumps({"version": 1, "models": {f"mlx-{n}": entry(n, 8101).to_json() for n in "ab"}}).encode(),
        "registry_invalid",
    ),
    "a later version": (b'{"version": 2, "models": {}, "more": 1}', "registry_newer"),
}


def asides(store: RegistryStore) -> list[Path]:
    return list(store.path.parent.glob("*.unreadable-*"))


@pytest.mark.parametrize(("content", "code"), UNREADABLE.values(), ids=UNREADABLE.keys())
def test_an_unreadable_file_is_set_aside_once_and_never_emptied(
    store: RegistryStore, content: bytes, code: str
) -> None:
    store.path.parent.mkdir()
    store.path.write_bytes(content)
    error = refused(store.read)
    assert (error.code, error.exit_code) == (code, 9)
    assert asides(store) == [], "reading writes nothing"
    for _ in range(3):
        assert refused(lambda: add(store, "a")).code == code
    assert store.path.read_bytes() == content
    (aside,) = asides(store)
    assert aside.read_bytes() == content
    assert stat.S_IMODE(aside.stat().st_mode) == 0o600
    assert store.generations() == []


def test_another_corruption_is_set_aside_too(store: RegistryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.path.parent.mkdir()
    for number, content in enumerate((b"{", b"[")):
        monkeypatch.setattr(store_module.time, "strftime", lambda _, number=number: f"at-{number}")
        store.path.write_bytes(content)
        refused(lambda: add(store, "a"))
    assert {path.read_bytes() for path in asides(store)} == {b"{", b"["}


def test_a_later_version_stays_as_it_is_whatever_is_done(home: Home) -> None:
    content = b'{"version": 7, "models": {"mlx-a": {"shape": "unheard of"}}}'
    home.registry_path.write_bytes(content)
    for argv in (("list",), ("init",), ("ensure", "org/a"), ("load", "mlx-a", "auto"), ("unload", "mlx-a")):
        ran = home.run(*argv, "--json")
        assert (ran.code, ran.error["code"]) == (9, "registry_newer"), argv
        assert "upgrade mlxctl" in ran.error["hint"]
    assert home.registry_path.read_bytes() == content


def test_problems_names_every_fault_and_raises_only_for_what_it_cannot_parse(store: RegistryStore) -> None:
    store.path.parent.mkdir()
    models = {f"mlx-{n}": {**entry(n, 8101).to_json(), "engine": "vllm"} for n in "ab"}
    store.path.write_text(json.dumps({"version": 1, "models": models}))
    problems = store.problems()
    assert len(problems) == 3
    assert problems[2] == "port 8101 belongs to both mlx-a and mlx-b"
    store.path.write_text("{")
    refused(store.problems)


def test_a_lock_that_somebody_keeps_is_a_conflict(store: RegistryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    add(store, "a")
    monkeypatch.setattr(store_module, "LOCK_TIMEOUT_S", 0.1)
    with filelock.FileLock(store.path.with_name("registry.lock")):
        error = refused(lambda: add(store, "b"))
        assert (error.code, error.exit_code) == ("registry_busy", 5)
        assert set(store.read().models) == {"mlx-a"}, "reading needs no lock"
    add(store, "b")


def test_who_waits_sees_what_the_holder_wrote(store: RegistryStore) -> None:
    inside, go = threading.Event(), threading.Event()

    def slow(registry: Registry) -> Registry:
        inside.set()
        assert go.wait(10)
        return registry.with_entry(entry("first", 8120))

    holder = threading.Thread(target=lambda: store.update(slow))
    holder.start()
    assert inside.wait(10)
    waiter = threading.Thread(target=lambda: add(store, "second"))
    waiter.start()
    go.set()
    holder.join()
    waiter.join()
    assert set(store.read().models) == {"mlx-first", "mlx-second"}


def test_the_file_may_be_a_name_of_its_own(tmp_path: Path) -> None:
    first, second = (RegistryStore(tmp_path / name, Ports()) for name in ("registry.json", "other.json"))
    add(first, "a", "b")
    add(second, "c", "d")
    assert (first.backups, second.backups) == (tmp_path / "registry.backups", tmp_path / "other.backups")
    assert set(second.read().models) == {"mlx-c", "mlx-d"}
    assert len(first.generations()) == len(second.generations()) == 1
