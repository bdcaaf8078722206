"""The registry: which model belongs on which port. Version 1 of the seed, with every unknown field kept.

Reading here is cheap (the standard library alone), so that `list` and `status` start fast; `core.schema` holds the
full check that every write passes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from mlxctl.core.errors import Conflict, NotFound, RegistryUnreadable, UsageError
from mlxctl.core.ports import Ports

VERSION = 1
ID_PREFIX = "mlx-"
DEFAULT_CONTEXT_LENGTH = 131072
MAX_OUTPUT_TOKENS_CAP = 65536

_ID = re.compile(r"mlx-[a-z0-9]+(-[a-z0-9]+)*")
_REPAIR = "put a kept generation back with `mlxctl registry restore`, or mend the file by hand"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelEntry:
    """One registered model. `raw` is the object as it was read: the source of fields that we do not know."""

    repo_id: str
    model_id: str
    cache_path: str
    format: str = "mlx"
    port: int | None = None
    source_path: str | None = None
    og_path: str | None = None
    chat_template: str | None = None
    tool_call_parser: str | None = None
    reasoning_parser: str | None = None
    context_length: int | None = None
    max_output_tokens: int | None = None
    request_params: Mapping[str, Any] | None = None
    engine: str | None = None
    pinned: bool | None = None
    boot: bool | None = None
    priority: str | None = None
    idle_timeout_s: int | None = None
    quantization: Mapping[str, Any] | None = None
    last_known_good: Mapping[str, Any] | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def to_json(self) -> dict[str, Any]:
        """The object to write: known fields in place, unknown ones kept, in the order in which they were read."""
        known = {name: getattr(self, name) for name in KNOWN_FIELDS}
        shown = dict(self.raw)
        shown.update({name: value for name, value in known.items() if value is not None or name in shown})
        shown["port"] = self.port
        return shown


KNOWN_FIELDS = tuple(f.name for f in fields(ModelEntry) if f.name != "raw")

_KINDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("repo_id", "model_id", "cache_path", "format"), (str,)),
    "port": (int, type(None)),
    **{
        name: (str, type(None))
        for name in (
            "source_path",
            "og_path",
            "chat_template",
            "tool_call_parser",
            "reasoning_parser",
            "engine",
            "priority",
        )
    },
    **{name: (int, type(None)) for name in ("context_length", "max_output_tokens", "idle_timeout_s")},
    **{name: (bool, type(None)) for name in ("pinned", "boot")},
    **{name: (dict, type(None)) for name in ("request_params", "quantization", "last_known_good")},
}


@dataclass(frozen=True, slots=True)
class Registry:
    """Every registered model by id. Methods return a new registry; nothing is changed in place."""

    models: Mapping[str, ModelEntry] = field(default_factory=dict)
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def to_json(self) -> dict[str, Any]:
        return {
            **self.raw,
            "version": VERSION,
            "models": {model_id: entry.to_json() for model_id, entry in self.models.items()},
        }

    def text(self) -> str:
        return json.dumps(self.to_json(), indent=2, ensure_ascii=False) + "\n"

    def at(self, port: int) -> ModelEntry | None:
        return next((entry for entry in self.models.values() if entry.port == port), None)

    @property
    def assigned(self) -> dict[int, ModelEntry]:
        return {entry.port: entry for entry in self.models.values() if entry.port is not None}

    def with_entry(self, entry: ModelEntry) -> Registry:
        return replace(self, models={**self.models, entry.model_id: entry})

    def assign(self, model_id: str, port: int) -> Registry:
        """`model_id` alone on `port`: whoever had the port loses it, and the model leaves the port that it had."""
        moved = {
            other: replace(entry, port=None) if entry.port == port and other != model_id else entry
            for other, entry in self.models.items()
        }
        moved[model_id] = replace(moved[model_id], port=port)
        return replace(self, models=moved)

    def unassign(self, port: int) -> Registry:
        return replace(
            self,
            models={
                model_id: replace(entry, port=None) if entry.port == port else entry
                for model_id, entry in self.models.items()
            },
        )

    def find(self, word: str) -> ModelEntry | None:
        """The entry whose id or repository is `word`. Raises `Conflict` when several share the repository."""
        if word in self.models:
            return self.models[word]
        same_repo = [entry for entry in self.models.values() if entry.repo_id == word]
        if len(same_repo) > 1:
            ids = ", ".join(entry.model_id for entry in same_repo)
            raise Conflict("ambiguous_model", f"{word} is registered more than once: {ids}", "name one of these ids")
        return same_repo[0] if same_repo else None

    def require(self, word: str) -> ModelEntry:
        entry = self.find(word)
        if entry is None:
            raise unknown_model(word, self.models)
        return entry


def unknown_model(word: str, ids: Iterable[str]) -> NotFound:
    import difflib

    known = list(ids)
    near = [model_id for model_id in known if slug(word) and slug(word) in model_id][:3]
    near = near or difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else "see `mlxctl list` for what is registered."
    return NotFound(
        "unknown_model",
        f"no registered model is called {word!r}, and it is no repository, folder or .gguf file",
        hint + " A repository is written organisation/name.",
    )


def slug(name: str) -> str:
    """`name` in lower case with `.` and `_` turned into `-` and nothing left but `[a-z0-9-]`."""
    lowered = re.sub(r"[._\s]+", "-", name.lower())
    return re.sub(r"-{2,}", "-", re.sub(r"[^a-z0-9-]", "", lowered)).strip("-")


def model_id_of(repo_id: str) -> str:
    """The id that a repository gets: `mlx-` and the slug of its name, without the organisation.

    A leading or trailing `mlx` of the name itself is not said twice, so that the id of an id is the id. Ids never
    change afterwards.
    """
    name = slug(repo_id.rsplit("/", 1)[-1])
    name = re.sub(r"^(mlx-)+|(-mlx)+$", "", name)
    if not name:
        raise UsageError("bad_name", f"{repo_id!r} has no letters or digits to make an id of", "give one with --name")
    return ID_PREFIX + name


def model_id_from_name(name: str) -> str:
    """The id for `--name`. Raises `UsageError` rather than bend what somebody typed."""
    model_id = name if name.startswith(ID_PREFIX) else ID_PREFIX + name
    if not _ID.fullmatch(model_id):
        raise UsageError(
            "bad_name", f"{name!r} cannot be a model id", "use lower-case letters, digits and single dashes only"
        )
    return model_id


def output_tokens_for(context_length: int) -> int:
    return min(MAX_OUTPUT_TOKENS_CAP, context_length)


def parse_registry(text: str, path: str) -> Registry:
    """The registry out of its file's text; `path` is named in errors. Raises `RegistryUnreadable`."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RegistryUnreadable("registry_corrupt", f"{path} is not valid JSON: {error}", _REPAIR) from error
    if not isinstance(document, dict):
        raise RegistryUnreadable("registry_corrupt", f"{path} is not a JSON object", _REPAIR)
    # the version comes first: a later one may shape everything else differently
    version = document.get("version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise RegistryUnreadable("registry_corrupt", f"{path} has no valid `version`", _REPAIR)
    if version > VERSION:
        raise RegistryUnreadable(
            "registry_newer",
            f"{path} is of version {version}; this mlxctl knows version {VERSION}",
            "upgrade mlxctl; the file was not touched",
        )
    if not isinstance(document.get("models"), dict):
        raise RegistryUnreadable("registry_corrupt", f"{path} has no object `models`", _REPAIR)
    models = {model_id: _parse_entry(model_id, raw, path) for model_id, raw in document["models"].items()}
    return Registry(models, raw=document)


def _parse_entry(model_id: str, raw: Any, path: str) -> ModelEntry:
    if not isinstance(raw, dict):
        raise RegistryUnreadable("registry_corrupt", f"{path}: models.{model_id} is not an object", _REPAIR)
    given = {"model_id": model_id, "format": "mlx", **raw}
    for name, kinds in _KINDS.items():
        value = given.get(name)
        # bool is a subclass of int, and `"port": true` must not become port 1
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            what = "is missing" if name not in given else f"has the value {value!r}"
            raise RegistryUnreadable("registry_corrupt", f"{path}: models.{model_id}.{name} {what}", _REPAIR)
    return ModelEntry(**{name: given[name] for name in KNOWN_FIELDS if name in given}, raw=raw)


def broken_invariants(registry: Registry, ports: Ports) -> list[str]:
    """What `registry` breaks of: one port one model, one model one port, stable ids, ports within the range."""
    broken = []
    owner: dict[int, str] = {}
    for key, entry in registry.models.items():
        if entry.model_id != key:
            broken.append(f"models.{key} says that its model_id is {entry.model_id}")
        if not _ID.fullmatch(key):
            broken.append(f"models.{key} is not a valid id (mlx-, then lower-case letters, digits and single dashes)")
        if entry.port is None:
            continue
        if entry.port not in ports:
            broken.append(f"models.{key} is on port {entry.port}, outside {ports.base}-{ports.last}")
        elif entry.port in owner:
            broken.append(f"port {entry.port} belongs to both {owner[entry.port]} and {key}")
        owner.setdefault(entry.port, key)
    return broken


def check_invariants(registry: Registry, ports: Ports, path: str) -> None:
    broken = broken_invariants(registry, ports)
    if broken:
        raise RegistryUnreadable("registry_invalid", f"{path}: {'; '.join(broken)}", _REPAIR)
