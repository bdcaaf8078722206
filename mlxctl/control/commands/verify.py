"""`mlxctl verify`: every registered path, shard, template, limit, id and invariant. Writes only with --fix-defaults."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from mlxctl.control.site import Site
from mlxctl.control.template import check_template, default_parser, default_template, template_path
from mlxctl.control.weights import context_length, model_family, problems_of, read_config
from mlxctl.core.errors import EXIT_DRIFT, MlxctlError, NotReady
from mlxctl.core.registry import ModelEntry, Registry, output_tokens_for
from mlxctl.core.result import Problem, Result


def verify(site: Site, *, fix_defaults: bool = False) -> Result:
    fixed: list[str] = []
    if fix_defaults:
        site.store.update(lambda registry: _with_defaults(registry, fixed))
    registry = site.store.read(checked=False)
    problems = [*_registry_problems(site), *(p for entry in registry.models.values() for p in entry_problems(entry))]
    data = {"checked": len(registry.models), "fixed": fixed, "problems": [problem.to_json() for problem in problems]}
    messages = (f"{len(registry.models)} models checked: all is well",) if not problems else ()
    return Result("verify", data, messages, tuple(problems), EXIT_DRIFT if problems else 0)


def _registry_problems(site: Site) -> Iterator[Problem]:
    for line in site.store.problems():
        yield Problem("registry_invalid", line, "mend the entry, or `mlxctl registry restore`")


def entry_problems(entry: ModelEntry) -> Iterator[Problem]:
    """What is wrong with one entry and its files."""
    folder = Path(entry.cache_path)
    for problem in problems_of(folder):
        yield _named(entry, problem)
    if entry.chat_template:
        try:
            check_template(template_path(entry.chat_template, folder))
        except MlxctlError as problem:
            yield _named(entry, problem)
    for field in ("context_length", "max_output_tokens"):
        if getattr(entry, field) is None:
            yield Problem(
                "registry_invalid", f"{entry.model_id}: {field} is not set", "`mlxctl verify --fix-defaults` sets it"
            )
    if entry.context_length and entry.max_output_tokens and entry.max_output_tokens > entry.context_length:
        yield Problem(
            "registry_invalid", f"{entry.model_id}: max_output_tokens exceeds context_length", "lower max_output_tokens"
        )
    if entry.og_path and entry.og_path == entry.cache_path:
        yield Problem(
            "registry_invalid",
            f"{entry.model_id}: og_path is the folder that is served",
            "remove og_path from the entry",
        )


def _named(entry: ModelEntry, problem: MlxctlError) -> Problem:
    return Problem(problem.code, f"{entry.model_id}: {problem.message}", problem.hint, problem.detail)


def _with_defaults(registry: Registry, fixed: list[str]) -> Registry:
    """The limits and harmony fields that an entry lacks, read from its config.json; entries without one are left."""
    for entry in list(registry.models.values()):
        try:
            config = read_config(Path(entry.cache_path))
        except NotReady:
            continue
        length = entry.context_length or context_length(config)
        family = model_family(config)
        better = replace(
            entry,
            context_length=length,
            max_output_tokens=entry.max_output_tokens or output_tokens_for(length),
            chat_template=entry.chat_template or default_template(Path(entry.cache_path), family),
            tool_call_parser=entry.tool_call_parser or default_parser(family),
            reasoning_parser=entry.reasoning_parser or default_parser(family),
        )
        if better != entry:
            fixed.append(entry.model_id)
            registry = registry.with_entry(better)
    return registry
