"""`mlxctl init`: register every complete model of the hub cache that is not registered yet."""

from __future__ import annotations

from mlxctl.control.acquire import Source, describe, require_unclaimed
from mlxctl.control.cache import scan
from mlxctl.control.site import Site
from mlxctl.control.weights import problems_of
from mlxctl.core.errors import MlxctlError
from mlxctl.core.registry import ModelEntry, Registry, model_id_of
from mlxctl.core.result import Problem, Result


def init(site: Site) -> Result:
    found = scan(site.settings.hub_cache)
    registry = site.store.read()
    known = {entry.repo_id for entry in registry.models.values()}
    added: list[ModelEntry] = []
    problems: list[Problem] = []
    exit_code = 0
    for model in found.models:
        if model.repo_id in known:
            continue
        try:
            for problem in problems_of(model.path):
                raise problem
            model_id = model_id_of(model.repo_id)
            require_unclaimed(_with(registry, added), model_id, model.repo_id)
            added.append(describe(model_id, Source(model.repo_id, model.path), model.path, converted=False))
        except MlxctlError as error:
            problems.append(Problem.of(error))
            # a half download is told, and is no failure of init; a collision needs a decision
            exit_code = error.exit_code if error.exit_code == 5 else exit_code
    site.store.update(lambda now: _with(now, [entry for entry in added if entry.model_id not in now.models]))
    data = {
        "registry": str(site.store.path),
        "added": [entry.model_id for entry in added],
        "known": sorted(registry.models),
    }
    return Result("init", data, (*found.warnings, *_notices(site, added)), tuple(problems), exit_code)


def _with(registry: Registry, entries: list[ModelEntry]) -> Registry:
    for entry in entries:
        registry = registry.with_entry(entry)
    return registry


def _notices(site: Site, added: list[ModelEntry]) -> tuple[str, ...]:
    return () if added else (f"no new model in {site.settings.hub_cache}",)
