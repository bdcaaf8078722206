"""The worker's server over an engine without a model, as a process of its own: `python -m tests.fakes.worker_process`.

It takes the flags of `mlxctl worker`. Before them, and ended by `--`, may stand faults:

    --load-s S         loading takes that long
    --fail WHY         loading fails with these words
    --die-after S      the engine dies that long after it was loaded
    --wedge            the engine never ends an answer, and does not stop
    --step-s S         between two tokens
    --no-language WHY  the tokenizer cannot be read
    --odd-language WHY the same, with an error that nobody expects
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from mlxctl.worker.arguments import serve_config
from mlxctl.worker.config import EngineConfig, ServeConfig
from mlxctl.worker.language import Language
from mlxctl.worker.server import RunningEngine, serve
from mlxctl.worker.types import Deliver, EngineStats
from tests.fakes.echo_engine import EchoEngine, byte_language


class FaultyEngine(EchoEngine):
    """Loads, dies and stops as the engine thread does."""

    def __init__(
        self, config: EngineConfig, deliver: Deliver, *, on_death: Callable[[], None], faults: argparse.Namespace
    ) -> None:
        super().__init__(deliver, step_s=faults.step_s, max_queue=config.max_queue)
        self.phase = "loading"
        self.error = ""
        self._faults, self._on_death = faults, on_death
        self._loaded = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._load, daemon=True).start()

    def _load(self) -> None:
        time.sleep(self._faults.load_s)
        if self._faults.fail:
            self._die(self._faults.fail)
            return
        self.phase = "ready"
        self._loaded.set()
        if self._faults.wedge:
            self.gate.clear()
        if self._faults.die_after is not None:
            time.sleep(self._faults.die_after)
            self._die("out of memory, as asked")

    def _die(self, why: str) -> None:
        self.phase, self.error = "failed", why
        self._loaded.set()
        self._on_death()

    def wait_loaded(self, timeout_s: float | None = None) -> bool:
        self._loaded.wait(timeout_s)
        return self.phase == "ready"

    def facts(self) -> Any:
        return super().facts() if self._loaded.is_set() and not self._faults.fail else None

    def stats(self) -> EngineStats:
        counted = super().stats()
        return EngineStats(phase=counted.phase, error=self.error, running=counted.running)

    def stop(self, timeout_s: float = 10.0) -> None:
        if self._faults.wedge:
            time.sleep(timeout_s)
            return
        super().stop()


def language_after(
    faults: argparse.Namespace,
) -> Callable[[ServeConfig, dict[str, Any], RunningEngine], Language | None]:
    def load(config: ServeConfig, model_config: dict[str, Any], engine: RunningEngine) -> Language | None:
        engine.start()
        if faults.no_language:
            raise ValueError(faults.no_language)
        if faults.odd_language:
            raise ArithmeticError(faults.odd_language)
        return byte_language() if engine.wait_loaded() else None

    return load


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser()
    for flag in ("--load-s", "--step-s"):
        parser.add_argument(flag, type=float, default=0.0)
    parser.add_argument("--die-after", type=float)
    parser.add_argument("--fail", default="")
    parser.add_argument("--no-language", default="")
    parser.add_argument("--odd-language", default="")
    parser.add_argument("--wedge", action="store_true")
    end = argv.index("--") if "--" in argv else None
    faults = parser.parse_args([] if end is None else argv[:end])
    words = argv if end is None else argv[end + 1 :]

    def make_engine(config: EngineConfig, deliver: Deliver, *, on_death: Callable[[], None]) -> FaultyEngine:
        return FaultyEngine(config, deliver, on_death=on_death, faults=faults)

    return serve(serve_config(words, os.environ), make_engine, language_after(faults))


if __name__ == "__main__":
    from mlxctl.core.errors import MlxctlError

    try:
        code = main(sys.argv[1:])
    except MlxctlError as error:
        print(f"error: {error.message}\nnext:  {error.hint}", file=sys.stderr)
        code = error.exit_code
    sys.stderr.flush()
    os._exit(code)
