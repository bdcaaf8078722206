"""Every error that mlxctl raises on purpose.

    MlxctlError                       exit 1    http 500
    ├── UsageError                    exit 2    http 400   the words of the command are wrong
    ├── NotFound                      exit 4    http 404   no such model, repository, port or file
    ├── Conflict                      exit 5    http 409   a port, lock or name is taken
    ├── Refused                       exit 6    http 507   memory or disk does not suffice
    ├── NotReady                      exit 7    http 503   a model could not be made to answer
    ├── Upstream                      exit 8    http 502   hub, remote host or gateway failed
    ├── RegistryUnreadable            exit 9    http 500   corrupt, of a newer version, or not writable
    └── Interrupted                   exit 130  http 499   Ctrl-C, a closed SSH session, or SIGTERM

A leaf differs from its neighbours by `code`, a stable word that scripts key on; `CODES` lists every code. `message`
says what happened in one line, `hint` what to do next.
"""

from __future__ import annotations

from typing import ClassVar

EXIT_OK = 0
EXIT_UNEXPECTED = 1
EXIT_DRIFT = 3
"""`verify`, `--check` and the like found a difference; not an error of the command itself."""

EXIT_CODES: dict[int, str] = {
    0: "done",
    1: "unexpected error",
    2: "usage: the words of the command are wrong",
    3: "drift found",
    4: "not found",
    5: "conflict: a port, a lock or a name is taken",
    6: "refused for memory or disk",
    7: "the model did not become ready",
    8: "the hub, a remote host or the gateway failed",
    9: "the registry cannot be read or written",
    130: "interrupted",
}


class MlxctlError(Exception):
    """Root of the tree. `detail` holds further lines, such as the end of a server's log."""

    exit_code: ClassVar[int] = EXIT_UNEXPECTED
    http_status: ClassVar[int] = 500

    def __init__(self, code: str, message: str, hint: str = "", detail: tuple[str, ...] = ()) -> None:
        if code not in CODES:
            raise ValueError(f"error code {code!r} is not listed in CODES")
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint
        self.detail = detail


class UsageError(MlxctlError):
    exit_code = 2
    http_status = 400


class NotFound(MlxctlError):
    exit_code = 4
    http_status = 404


class Conflict(MlxctlError):
    exit_code = 5
    http_status = 409


class Refused(MlxctlError):
    exit_code = 6
    http_status = 507


class NotReady(MlxctlError):
    exit_code = 7
    http_status = 503


class Upstream(MlxctlError):
    exit_code = 8
    http_status = 502


class RegistryUnreadable(MlxctlError):
    exit_code = 9


class Interrupted(MlxctlError):
    exit_code = 130
    http_status = 499


CODES: dict[str, str] = {
    "unexpected": "a defect in mlxctl, or an error of the machine that it does not know",
    # usage
    "bad_port": "the port is not a number, or lies outside mlxctl's forty ports",
    "bad_name": "the name cannot become a model id",
    "bad_flag": "flags that do not go together, or a value that a flag does not take",
    "bad_setting": "a variable or a line of config.toml has a value of the wrong form",
    "needs_yes": "a question would be asked, but there is no terminal to ask on",
    # not found
    "unknown_model": "no registered model, repository, folder or file has this name",
    "unknown_repo": "the hub has no such repository, or it is private",
    "nothing_on_port": "no model is registered or running on the port",
    "no_log": "the port has no log yet",
    "no_backup": "no such generation of the registry is kept",
    "not_serving": "the model is registered but no server answers for it",
    # conflict
    "port_taken": "a process that is not ours listens on the port",
    "port_busy": "another command works on the port, and did not finish in time",
    "model_busy": "another command works on the model, and did not finish in time",
    "registry_busy": "another command holds the registry's lock",
    "no_free_port": "every port of the range is in use",
    "name_collision": "another model already has this id",
    "ambiguous_model": "several registered models fit the name",
    # refused
    "not_enough_memory": "the model's weights exceed the memory that is available",
    "disk_full": "the disk has no room for what has to be written",
    # not ready
    "died": "the server ended before it answered",
    "timeout": "the server did not answer in time and showed no progress",
    "wrong_model": "the server answers under another model's name",
    "bad_answer": "the server is up but does not complete a chat request",
    "bad_model": "a file of the model is missing, torn or unreadable",
    "bad_template": "the chat template does not exist or does not parse",
    "conversion_failed": "the conversion command failed or wrote no usable model",
    "unsupported_format": "the model's format or family cannot be converted",
    "no_backend": "no MLX backend is installed, or two that exclude each other",
    "no_engine": "the program that should serve the model was not found",
    "still_running": "a process did not end, or the port did not become free",
    # upstream
    "hub_failed": "the hub did not answer, or broke off",
    "hub_offline": "the network may not be used, and the cache does not have the files",
    "gated_repo": "the repository asks for a licence to be accepted or for a token",
    "hub_checksum": "a downloaded file differs from what the hub announced",
    "package_index_failed": "the package index did not give the quickstart's model",
    # registry
    "registry_corrupt": "the registry is not valid JSON or not of the registry's shape",
    "registry_newer": "the registry was written by a newer version",
    "registry_invalid": "the registry breaks an invariant, such as two models on one port",
    "registry_read_only": "the registry or its folder cannot be written",
    # interrupted
    "interrupted": "Ctrl-C, a closed terminal, or SIGTERM",
}
"""Every `code`, and what it means. `docs/cli.md` lists them; a test holds the two together."""
