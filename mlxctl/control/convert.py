"""Turns a downloaded or local model into MLX's format, in a folder that becomes a model only when it is whole."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from mlxctl.control.backend import blas_environment, require_backend
from mlxctl.control.host import STAMP_VARIABLE
from mlxctl.control.logs import last_lines
from mlxctl.control.memory import human_bytes
from mlxctl.control.site import Site
from mlxctl.control.state import disk_error
from mlxctl.control.weights import folder_bytes, require_whole, weight_bytes
from mlxctl.core.errors import NotReady, Refused, UsageError

PARTIAL = ".partial-"
AUTO, FORCE, SKIP = "auto", "force", "skip"
YES, NO = "yes", "no"
DTYPES = ("float16", "bfloat16", "float32")
DISK_MARGIN = 1 << 30
_POLL_S = 0.1
_SWAP, _HERE = 2, -100
"""RENAME_EXCHANGE of Linux and RENAME_SWAP of macOS are the same number; AT_FDCWD."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """What the conversion flags asked for. `bits` and `group_size` imply quantising."""

    convert: str = AUTO
    preconverted: str = AUTO
    quantize: bool = False
    bits: int | None = None
    group_size: int | None = None
    dtype: str | None = None

    def check(self) -> Conversion:
        for flag, value, allowed in (
            ("--convert", self.convert, (AUTO, FORCE, SKIP)),
            ("--preconverted", self.preconverted, (YES, NO, AUTO)),
            ("--dtype", self.dtype or DTYPES[0], DTYPES),
        ):
            if value not in allowed:
                raise UsageError("bad_flag", f"{flag} {value!r} is not known", f"choose one of {', '.join(allowed)}")
        if self.convert == SKIP and self.flags():
            raise UsageError(
                "bad_flag",
                "--convert skip leaves nothing for --quantize, --bits, --group-size or --dtype to change",
                "leave out --convert skip, or the other flags",
            )
        return self

    def flags(self) -> list[str]:
        """The same as flags of `mlx_lm convert`."""
        flags = ["--quantize"] if self.quantize or self.bits or self.group_size else []
        flags += ["--q-bits", str(self.bits)] if self.bits else []
        flags += ["--q-group-size", str(self.group_size)] if self.group_size else []
        return flags + (["--dtype", self.dtype] if self.dtype else [])


def needs_conversion(asked: Conversion, named_preconverted: bool, written_by_mlx: bool) -> bool:
    """Whether to convert: the flags first, then the repository's name, then what the files themselves say."""
    if asked.convert != AUTO:
        return asked.convert == FORCE
    if asked.preconverted != AUTO:
        return asked.preconverted == NO
    # somebody who asks for another precision wants a conversion, whatever is there
    return bool(asked.flags()) or not (named_preconverted or written_by_mlx)


def looks_preconverted(repo_id: str, orgs: tuple[str, ...], hints: tuple[str, ...]) -> bool:
    """The seed's rule: the organisation is known for it, or the repository's name says so."""
    organisation, _, name = repo_id.lower().rpartition("/")
    return organisation in {org.lower() for org in orgs} or any(hint.lower() in name for hint in hints)


def convert_argv(template: str | None, repo: str, src: Path, dest: Path, flags: list[str]) -> list[str]:
    """The conversion's command line. `template` is MLX_CONVERT_CMD with {repo}, {src} and {dest}."""
    if template is None:
        return [sys.executable, "-m", "mlx_lm", "convert", "--hf-path", str(src), "--mlx-path", str(dest), *flags]
    try:
        words = shlex.split(template)
        return [word.format(repo=repo, src=src, dest=dest) for word in words] + flags
    except (KeyError, IndexError, ValueError) as error:
        raise UsageError(
            "bad_setting", f"MLX_CONVERT_CMD cannot be understood: {template}", "it takes {repo}, {src} and {dest}"
        ) from error


def convert(site: Site, model_id: str, repo: str, src: Path, asked: Conversion) -> Path:
    """Convert `src` (a folder, or a .gguf file) into `converted--ID` of the hub cache, and return that folder.

    Callers hold the model's lock. Raises `NotReady("conversion_failed")`, `Refused("disk_full")`.
    """
    asked = for_backend(asked, site.settings.convert_cmd)
    dest = site.settings.hub_cache / f"converted--{model_id}"
    _require_room(dest.parent, weight_bytes(src))
    with _partial(site, model_id) as (partial, stamp):
        if src.is_file():
            src = _dequantized(site, src, partial / "source", asked)
        _run(
            site,
            model_id,
            convert_argv(site.settings.convert_cmd, repo, src, partial / "model", asked.flags()),
            stamp,
            partial,
        )
        try:
            require_whole(partial / "model")
        except NotReady as problem:
            raise NotReady(
                "conversion_failed", f"the conversion left no whole model: {problem.message}", problem.hint
            ) from problem
        _put_in_place(partial / "model", dest, partial / "replaced")
    return dest


def for_backend(asked: Conversion, convert_cmd: str | None) -> Conversion:
    """`asked`, with float32 where MLX runs on a CPU and nothing else was asked for: half precision crawls there."""
    if convert_cmd is not None or asked.flags() or require_backend() != "cpu":
        return asked
    return replace(asked, dtype="float32")


def _dequantized(site: Site, gguf: Path, dest: Path, asked: Conversion) -> Path:
    from mlxctl.control.gguf import dequantize

    dequantize(gguf, dest, site.reporter, dtype=asked.dtype or "float16")
    return dest


@contextlib.contextmanager
def _partial(site: Site, model_id: str) -> Iterator[tuple[Path, str]]:
    """A folder that no scan takes for a model, gone when the block ends; what killed runs left is removed first."""
    root = site.settings.hub_cache
    prefix = f"{PARTIAL}{model_id}--"
    for leftover in root.glob(f"{prefix}*"):
        _end_stamped(site, leftover.name.removeprefix(prefix))
        shutil.rmtree(leftover, ignore_errors=True)
    stamp = os.urandom(8).hex()
    partial = root / f"{prefix}{stamp}"
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        raise disk_error(error, partial) from error
    try:
        yield partial, stamp
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _end_stamped(site: Site, stamp: str) -> None:
    """End a converter whose mlxctl was killed: its stamp is in the name of the folder that it writes."""
    for pid in site.host.stamped(stamp):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _require_room(folder: Path, needed: int) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise disk_error(error, folder) from error
    if free < needed + DISK_MARGIN:
        raise Refused(
            "disk_full",
            f"the conversion needs about {human_bytes(needed + DISK_MARGIN)} in {folder}; {human_bytes(free)} are free",
            "free some space, then try again",
        )


def _run(site: Site, model_id: str, argv: list[str], stamp: str, partial: Path) -> None:
    """Run the converter to its end, showing how much it has written. Its output is kept in the log folder."""
    # unbuffered, so that what it said last stands last in the log
    environ = {**site.environ, STAMP_VARIABLE: stamp, "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    if site.settings.convert_cmd is None and require_backend() == "cpu":
        environ |= blas_environment(environ.get("LD_PRELOAD", ""))
    log_path = site.settings.log_dir / f"convert-{model_id}.log"
    log_path.parent.mkdir(parents=True, exist_ok=True)
    task = site.reporter.task(f"Converting {model_id}", unit="bytes")
    try:
        with log_path.open("wb") as log:
            status = _wait(argv, environ, log, task.advance, partial)
    except OSError as error:
        raise NotReady(
            "conversion_failed", f"cannot run {argv[0]}: {error.strerror}", "check MLX_CONVERT_CMD"
        ) from error
    finally:
        task.finish()
    if status != 0:
        lines = last_lines(log_path, 12)
        if any("No space left" in line for line in lines):
            raise Refused(
                "disk_full", f"no room on the disk to convert {model_id}", "free some space, then try again", lines
            )
        raise NotReady(
            "conversion_failed",
            f"the conversion of {model_id} failed with exit code {status}",
            f"its output is in {log_path}",
            lines,
        )


def _wait(
    argv: list[str], environ: dict[str, str], log: IO[bytes], advance: Callable[[int], None], partial: Path
) -> int:
    process = subprocess.Popen(
        argv, env=environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
    )
    written = 0
    try:
        while True:
            try:
                return process.wait(timeout=_POLL_S)
            except subprocess.TimeoutExpired:
                now = folder_bytes(partial / "model")
                advance(now - written)
                written = now
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _put_in_place(model: Path, dest: Path, aside: Path) -> None:
    """Rename the finished folder; an earlier conversion changes places with it and goes with the partial folder."""
    try:
        if dest.exists():
            if _exchange(model, dest):
                return
            os.replace(dest, aside)
        os.replace(model, dest)
    except OSError as error:
        raise disk_error(error, dest) from error


def _exchange(one: Path, other: Path) -> bool:
    """Swap two names in one step, so that a kill never leaves none of them. False where the system cannot."""
    import ctypes

    libc = ctypes.CDLL(None)
    names = (os.fsencode(one), os.fsencode(other))
    if sys.platform == "darwin":
        return bool(libc.renamex_np(*names, _SWAP) == 0)
    renameat2 = getattr(libc, "renameat2", None)
    return renameat2 is not None and bool(renameat2(_HERE, names[0], _HERE, names[1], _SWAP) == 0)
