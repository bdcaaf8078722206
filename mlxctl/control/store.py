"""The registry's file: cheap reads without a lock, and one transaction for every write, with generations kept."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mlxctl.control.state import disk_error, write_atomically
from mlxctl.core.errors import Conflict, NotFound, RegistryUnreadable
from mlxctl.core.ports import Ports
from mlxctl.core.registry import Registry, check_invariants, parse_registry

GENERATIONS = 10
LOCK_TIMEOUT_S = 30.0
"""No long work happens inside the lock, so a longer wait means that somebody is stuck."""


@dataclass(frozen=True, slots=True)
class Generation:
    """One kept copy of the registry, newest numbered highest."""

    number: int
    path: Path
    written_at: float
    models: int


class RegistryStore:
    """The file at `path`. `update` is the only writer."""

    def __init__(self, path: Path, ports: Ports) -> None:
        self.path = path
        self.ports = ports

    @property
    def backups(self) -> Path:
        return self.path.with_name(f"{self.path.stem}.backups")

    def read(self, *, checked: bool = True) -> Registry:
        """The registry as it is, without a lock; an absent file is an empty registry. Raises `RegistryUnreadable`.

        With `checked` off, one that breaks an invariant is given all the same, for who lists what is wrong.
        """
        try:
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return Registry()
        except UnicodeDecodeError as error:
            raise RegistryUnreadable(
                "registry_corrupt",
                f"{self.path} is not UTF-8 text",
                "put a kept generation back with `mlxctl registry restore`",
            ) from error
        except OSError as error:
            raise RegistryUnreadable(
                "registry_corrupt", f"cannot read {self.path}: {error.strerror}", "check its owner and permissions"
            ) from error
        registry = parse_registry(text, str(self.path))
        if checked:
            check_invariants(registry, self.ports, str(self.path))
        return registry

    def update(self, change: Callable[[Registry], Registry]) -> Registry:
        """One transaction: read under the lock, `change`, validate, write. `change` must be quick and pure."""
        with self._locked():
            try:
                before = self.read()
            except RegistryUnreadable:
                self._set_aside()
                raise
            after = change(before)
            if after == before and self.path.exists():
                return after
            self._validate(after)
            self._keep_generation()
            write_atomically(self.path, after.text(), durable=True)
            return after

    def restore(self, number: int | None) -> Generation:
        """Put generation `number` (the newest when None) back; what was there becomes a generation itself."""
        kept = self.generations()
        chosen = next((g for g in reversed(kept) if number is None or g.number == number), None)
        if chosen is None:
            raise NotFound(
                "no_backup",
                f"generation {number} is not kept" if number else "no generation is kept",
                "see `mlxctl registry backup list`",
            )
        text = chosen.path.read_text(encoding="utf-8")
        registry = parse_registry(text, str(chosen.path))
        with self._locked():
            self._validate(registry)
            self._keep_generation()
            write_atomically(self.path, text, durable=True)
        return chosen

    def generations(self) -> list[Generation]:
        """Kept copies, oldest first; copies that no longer parse are left out."""
        found = []
        for path in sorted(self.backups.glob("[0-9]*.json"), key=lambda p: int(p.stem)):
            with contextlib.suppress(RegistryUnreadable, OSError, UnicodeDecodeError):
                registry = parse_registry(path.read_text(encoding="utf-8"), str(path))
                found.append(Generation(int(path.stem), path, path.stat().st_mtime, len(registry.models)))
        return found

    def problems(self) -> list[str]:
        """Everything that is wrong with the file, for `registry validate`. Raises only when it cannot be parsed."""
        from mlxctl.core.registry import broken_invariants
        from mlxctl.core.schema import invalid_fields

        if not self.path.exists():
            return []
        registry = parse_registry(self.path.read_text(encoding="utf-8", errors="replace"), str(self.path))
        return [*invalid_fields(registry), *broken_invariants(registry, self.ports)]

    def _validate(self, registry: Registry) -> None:
        from mlxctl.core.schema import invalid_fields

        check_invariants(registry, self.ports, str(self.path))
        wrong = invalid_fields(registry)
        if wrong:
            raise RegistryUnreadable("registry_invalid", f"{self.path}: {'; '.join(wrong)}", "nothing was written")

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        import filelock

        lock_path = self.path.with_name(f"{self.path.stem}.lock")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lock = filelock.FileLock(lock_path, timeout=LOCK_TIMEOUT_S, poll_interval=0.01)
            lock.acquire()
        except filelock.Timeout:
            raise Conflict("registry_busy", f"another command holds {lock_path}", "try again in a moment") from None
        except OSError as error:
            raise disk_error(error, self.path) from error
        try:
            yield
        except OSError as error:
            raise disk_error(error, self.path) from error
        finally:
            # what the lock guarded is done by now; the system takes the lock back when this process ends
            with contextlib.suppress(OSError):
                lock.release()

    def _keep_generation(self) -> None:
        if not self.path.exists():
            return
        numbers = sorted(int(p.stem) for p in self.backups.glob("[0-9]*.json"))
        newest = numbers[-1] + 1 if numbers else 1
        try:
            write_atomically(self.backups / f"{newest}.json", self.path.read_text(encoding="utf-8"))
        except UnicodeDecodeError:
            # no text at all, so no generation; a restore comes here
            self._set_aside()
        for number in numbers[: max(0, len(numbers) + 1 - GENERATIONS)]:
            # one generation too many is no reason to refuse a write
            with contextlib.suppress(OSError):
                (self.backups / f"{number}.json").unlink()

    def _set_aside(self) -> None:
        """A copy of an unreadable file, so that mending it by hand cannot lose it. The file itself stays."""
        with contextlib.suppress(OSError):
            content = self.path.read_bytes()
            if any(copy.read_bytes() == content for copy in self.path.parent.glob(f"{self.path.name}.unreadable-*")):
                return
            aside = self.path.with_name(f"{self.path.name}.unreadable-{time.strftime('%Y%m%dT%H%M%S')}")
            aside.write_bytes(content)
            os.chmod(aside, 0o600)
