"""`mlxctl registry validate|backup list|restore`: the registry's file itself."""

from __future__ import annotations

from datetime import UTC, datetime

from mlxctl.control.site import Site
from mlxctl.core.errors import RegistryUnreadable
from mlxctl.core.result import Problem, Result


def validate(site: Site) -> Result:
    problems = tuple(
        Problem("registry_invalid", line, "mend the line, or `mlxctl registry restore`")
        for line in site.store.problems()
    )
    data = {"path": str(site.store.path), "exists": site.store.path.exists(), "problems": [p.message for p in problems]}
    messages = (
        () if problems else (f"{site.store.path} is valid" if site.store.path.exists() else "there is no registry yet",)
    )
    return Result("registry validate", data, messages, problems, RegistryUnreadable.exit_code if problems else 0)


def backup_list(site: Site) -> Result:
    kept = [
        {
            "generation": generation.number,
            "written_at": datetime.fromtimestamp(generation.written_at, UTC).isoformat(timespec="seconds"),
            "models": generation.models,
            "path": str(generation.path),
        }
        for generation in site.store.generations()
    ]
    return Result("registry backup list", {"generations": kept}, () if kept else ("no generation is kept yet",))


def restore(site: Site, number: int | None) -> Result:
    chosen = site.store.restore(number)
    return Result(
        "registry restore",
        {"generation": chosen.number, "models": chosen.models, "path": str(site.store.path)},
        ("what was there is kept as the newest generation; `mlxctl reconcile` compares it with what runs",),
    )
