"""A server that stands in for `mlx-openai-server launch`: the standard library, a few MB, and faults on demand.

Run as MLX_LAUNCH_CMD, it takes the flags that mlxctl appends. Faults are flags of its own, given before those:

    --die-at-once            exit 3 before listening
    --die-after S            kill itself with SIGSEGV S seconds after it began to listen
    --never-listen           stay alive, listen to nothing
    --listen-after S         a slow load
    --chat-status N          answer chat requests with HTTP N
    --silent                 accept connections, answer none
    --name NAME              tell another model's name in /v1/models
    --ignore-term            SIGTERM does nothing
    --drain S                keep the port for S seconds after SIGTERM, then exit 0
    --grandchild             start a child in a session of its own that keeps the output pipe open
    --chatter                write a line of log every 50 ms
    --only NAME              the faults above hold only for a model folder of this name
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ANSWER = "OK, this is the fake engine."


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    for flag in ("--die-at-once", "--never-listen", "--silent", "--ignore-term", "--grandchild", "--chatter"):
        parser.add_argument(flag, action="store_true")
    for flag in ("--die-after", "--listen-after", "--drain"):
        parser.add_argument(flag, type=float)
    parser.add_argument("--chat-status", type=int, default=200)
    parser.add_argument("--name")
    parser.add_argument("--only")
    parser.add_argument("--model-path", required=True)
    parser.add_argument("--model-type", choices=["lm"], required=True)
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    for flag in ("--tool-call-parser", "--reasoning-parser", "--chat-template-file"):
        parser.add_argument(flag)
    parser.add_argument("--trust-remote-code", action="store_true")
    given = parser.parse_args(argv)
    if given.only and Path(given.model_path).name != given.only:
        return parser.parse_args(argv[argv.index("--model-path") :])
    return given


class Handler(BaseHTTPRequestHandler):
    given: argparse.Namespace

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        name = self.given.name or self.given.model_path
        self._send(200, {"object": "list", "data": [{"id": name, "object": "model"}]})

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.given.silent:
            time.sleep(3600)
        if self.given.chat_status != 200:
            self._send(self.given.chat_status, {"error": {"message": "asked to fail"}})
        elif request.get("stream"):
            self._stream()
        else:
            message = {"role": "assistant", "content": ANSWER}
            self._send(200, {"model": request.get("model"), "choices": [{"message": message, "finish_reason": "stop"}]})

    def _send(self, status: int, body: dict[str, object]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _stream(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for word in ANSWER.split(" "):
            self._event({"choices": [{"delta": {"content": word + " "}, "finish_reason": None}]})
        self._event({"choices": [{"delta": {}, "finish_reason": "stop"}], "usage": {"completion_tokens": 6}})
        self.wfile.write(b"data: [DONE]\n\n")

    def _event(self, body: dict[str, object]) -> None:
        self.wfile.write(f"data: {json.dumps(body)}\n\n".encode())


def chatter() -> None:
    while True:
        print("loading", time.monotonic(), flush=True)
        time.sleep(0.05)


def main(argv: list[str]) -> None:
    given = parse(argv)
    print("fake engine starts for", given.model_path, flush=True)
    if given.die_at_once:
        print("cannot load the model: asked to die", flush=True)
        sys.exit(3)
    if given.chatter:
        threading.Thread(target=chatter, daemon=True).start()
    if given.ignore_term:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if given.grandchild:
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    if given.never_listen:
        time.sleep(3600)
    time.sleep(given.listen_after or 0)
    Handler.given = given
    server = ThreadingHTTPServer((given.host, given.port), Handler)
    server.daemon_threads = True
    if given.drain is not None:
        signal.signal(signal.SIGTERM, lambda *_: threading.Timer(given.drain, os._exit, (0,)).start())
    if given.die_after is not None:
        threading.Timer(given.die_after, os.kill, (os.getpid(), signal.SIGSEGV)).start()
    server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1:])
