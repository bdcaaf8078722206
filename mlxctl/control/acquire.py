"""From a word that somebody typed to a registered model whose files are whole: find, download, convert, register."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from mlxctl.control.convert import FORCE, SKIP, Conversion, convert, looks_preconverted, needs_conversion
from mlxctl.control.site import Site
from mlxctl.control.snapshots import choose_gguf
from mlxctl.control.template import default_parser, default_template
from mlxctl.control.weights import context_length, is_mlx, model_family, problems_of, read_config, require_whole
from mlxctl.core.errors import Conflict, MlxctlError, NotReady, UsageError
from mlxctl.core.registry import (
    ModelEntry,
    Registry,
    model_id_from_name,
    model_id_of,
    output_tokens_for,
    unknown_model,
)

LOCAL = "local/"
_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True, slots=True)
class Source:
    """Where a model's files are. `og_path` is what may be offloaded once a conversion stands on its own."""

    repo_id: str
    path: Path
    og_path: Path | None = None


@dataclass(frozen=True, slots=True)
class Acquired:
    entry: ModelEntry
    converted: bool
    created: bool


def acquire(site: Site, word: str, asked: Conversion, name: str | None = None) -> Acquired:
    """The registered entry for `word` (id, repository, folder or .gguf file); downloads and converts as needed."""
    asked.check()
    registry = site.store.read()
    entry = registry.find(word)
    if entry is not None and name is not None and model_id_from_name(name) != entry.model_id:
        entry = None
    torn = next(problems_of(Path(entry.cache_path)), None) if entry else None
    if entry is not None and asked.convert != FORCE and torn is None:
        _require_as_asked(entry, asked)
        return Acquired(entry, converted=False, created=False)
    repo_id, local = _identify(word, entry, registry)
    model_id = entry.model_id if entry else model_id_from_name(name) if name else model_id_of(repo_id)
    require_unclaimed(registry, model_id, repo_id)
    with site.states.lock(model_id, site.settings.lock_timeout_s, model_id):
        registry = site.store.read()
        require_unclaimed(registry, model_id, repo_id)
        now = registry.models.get(model_id)
        if entry is None and now is not None and local is not None:
            _require_same_place(now, local)
        if entry is None and now is not None and _is_what_was_asked(now, local, asked):
            # known by its repository or folder only, or acquired by another command while we waited
            return Acquired(now, converted=False, created=False)
        source = Source(repo_id, local) if local else _download_again(site, repo_id, torn)
        folder, converted = _converted(site, model_id, source, asked)
        fresh = describe(model_id, source, folder, converted)
        registered = site.store.update(lambda now: _register(now, fresh))
    return Acquired(registered.models[model_id], converted, created=entry is None)


def _is_what_was_asked(entry: ModelEntry, local: Path | None, asked: Conversion) -> bool:
    if asked.convert == FORCE or (local is not None and entry.source_path != str(local)):
        return False
    if any(problems_of(Path(entry.cache_path))):
        return False
    _require_as_asked(entry, asked)
    return True


def _require_as_asked(entry: ModelEntry, asked: Conversion) -> None:
    """Raise `UsageError` when a whole model is there, but quantised otherwise than the flags say."""
    has = entry.quantization or {}
    wanted = {"bits": asked.bits, "group_size": asked.group_size}
    other = any(value is not None and has.get(key) != value for key, value in wanted.items())
    if other or (asked.quantize and not has):
        what = f"{has.get('bits')} bits in groups of {has.get('group_size')}" if has else "not quantised"
        raise UsageError(
            "bad_flag",
            f"{entry.model_id} is registered already, {what}",
            "convert it again with --convert force, or keep both with --name",
        )


def _identify(word: str, entry: ModelEntry | None, registry: Registry) -> tuple[str, Path | None]:
    """(repository, local path or None) of `word`. Raises `NotFound`, `UsageError`."""
    if entry is not None:
        if not entry.repo_id.startswith(LOCAL):
            return entry.repo_id, None
        return entry.repo_id, Path(entry.source_path or entry.cache_path)
    path = Path(word).expanduser()
    # the empty word would mean the current folder
    if word and path.exists():
        if path.is_file() and path.suffix != ".gguf":
            raise UsageError(
                "bad_flag", f"{word} is a file, but no .gguf file", "give the model's folder, or a .gguf file"
            )
        name = path.resolve().name
        return LOCAL + (path.stem if path.is_file() else name), path.resolve()
    if _REPO.fullmatch(word) and not word.startswith(LOCAL):
        return word, None
    raise unknown_model(word, registry.models)


def require_unclaimed(registry: Registry, model_id: str, repo_id: str) -> None:
    """Raise `Conflict` when another repository's model already has the id."""
    owner = registry.models.get(model_id)
    if owner is not None and owner.repo_id != repo_id:
        raise Conflict(
            "name_collision",
            f"{repo_id} would be called {model_id}, but {owner.repo_id} already has that id",
            "give it another with --name",
        )


def _require_same_place(owner: ModelEntry, local: Path) -> None:
    """Raise `Conflict` when the id stands for another folder or file of the same name, which is still there."""
    source = owner.source_path
    if source is not None and source != str(local) and Path(source).exists():
        raise Conflict(
            "name_collision",
            f"{local} would be called {owner.model_id}, but {source} already has that id",
            "give it another with --name",
        )


def _download_again(site: Site, repo_id: str, torn: NotReady | None) -> Source:
    """Like `_download`; where it was to mend a damaged model and fails, the damage is what has to be told."""
    try:
        return _download(site, repo_id)
    except MlxctlError as error:
        if torn is None:
            raise
        hint = f"downloading it again failed: {error.message}; {error.hint}"
        raise NotReady(torn.code, torn.message, hint, torn.detail) from error


def _download(site: Site, repo_id: str) -> Source:
    from mlxctl.control.hub import download

    settings = site.settings
    snapshot = download(
        repo_id,
        settings.hub_cache,
        site.reporter,
        offline=settings.offline,
        token=settings.hub_token,
        endpoint=settings.hub_endpoint,
    )
    return Source(repo_id, snapshot.path, snapshot.repo_folder)


def _converted(site: Site, model_id: str, source: Source, asked: Conversion) -> tuple[Path, bool]:
    """(folder to serve, whether it was converted now)."""
    gguf = gguf_of(source.path)
    if gguf is not None:
        if asked.convert == SKIP:
            raise NotReady("unsupported_format", f"{gguf.name} cannot be served as it is", "leave out --convert skip")
        return convert(site, model_id, source.repo_id, gguf, asked), True
    require_whole(source.path)
    settings = site.settings
    named = looks_preconverted(source.repo_id, settings.preconverted_orgs, settings.preconverted_hints)
    if not needs_conversion(asked, named, is_mlx(source.path, read_config(source.path))):
        return source.path, False
    return convert(site, model_id, source.repo_id, source.path, asked), True


def gguf_of(path: Path) -> Path | None:
    """The .gguf file to convert: `path` itself, or the most exact one of a folder without safetensors."""
    if path.is_file():
        return path
    if any(path.glob("*.safetensors")):
        return None
    # a snapshot may keep it in a folder of its own
    chosen = choose_gguf(str(file.relative_to(path)) for file in path.rglob("*.gguf"))
    return path / chosen[0] if chosen else None


def describe(model_id: str, source: Source, folder: Path, converted: bool) -> ModelEntry:
    """The entry of a model, as its files describe it."""
    config = read_config(folder)
    family = model_family(config)
    length = context_length(config)
    quantization = config.get("quantization")
    return ModelEntry(
        repo_id=source.repo_id,
        model_id=model_id,
        cache_path=str(folder),
        source_path=str(source.path),
        og_path=str(source.og_path) if converted and source.og_path else None,
        chat_template=default_template(folder, family),
        tool_call_parser=default_parser(family),
        reasoning_parser=default_parser(family),
        context_length=length,
        max_output_tokens=output_tokens_for(length),
        quantization=quantization if isinstance(quantization, dict) else None,
    )


def _register(now: Registry, fresh: ModelEntry) -> Registry:
    """`fresh`, with what people set on an earlier entry of the same model kept."""
    require_unclaimed(now, fresh.model_id, fresh.repo_id)
    old = now.models.get(fresh.model_id)
    if old is None:
        return now.with_entry(fresh)
    paths = {name: getattr(fresh, name) for name in ("cache_path", "source_path", "og_path", "quantization", "format")}
    return now.with_entry(replace(old, **paths))
