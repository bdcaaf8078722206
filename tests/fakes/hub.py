"""A Hugging Face hub on 127.0.0.1 that serves a folder `<root>/<org>/<name>/…` and breaks where a test asks it to.

    with Hub(root, Stall("*/model.safetensors", at=900, seconds=30)) as hub:
        snapshot_download("acme/tiny", endpoint=hub.url)
        assert hub.sent("*.safetensors") == 1000

The faults are in `hub_faults.py`; `hub.strikes(fault)` tells how often one struck. Also a program:
`python -m tests.fakes.hub --root DIR [--port N]` prints its address on one line and serves until it is killed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import socket
import sys
import threading
from dataclasses import replace
from fnmatch import fnmatchcase
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qs, unquote, urlsplit

from tests.fakes.hub_faults import Corrupt, Cut, Fault, Gated, NoRange, Private, Resize, Slow, Stall, Status
from tests.fakes.hub_files import CHUNK, RepoFile, Request, chunks, flipped, repo_file, sibling, tree_row

F = TypeVar("F")


class Hub:
    """The server. Entering starts it; leaving stops it and wakes every stalled answer."""

    def __init__(self, root: Path, *faults: Fault, port: int = 0, page_size: int = 1000) -> None:
        self.root = root
        self.page_size = page_size
        self.closing = threading.Event()
        self._faults = faults
        self._strikes: dict[Fault, int] = {}
        self._requests: list[Request] = []
        self._sent: dict[str, int] = {}
        self._lock = threading.Lock()
        self.server = _Server(self, port)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self) -> Hub:
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()

    def break_with(self, *faults: Fault) -> None:
        """Replace the faults; strikes are counted anew and the record of requests starts again."""
        with self._lock:
            self._faults, self._strikes, self._requests, self._sent = faults, {}, [], {}

    def strikes(self, fault: Fault) -> int:
        with self._lock:
            return self._strikes.get(fault, 0)

    def requests(self, method: str = "*", path: str = "*") -> tuple[Request, ...]:
        """Copies, in order of arrival; `path` is a glob over the request's path."""
        with self._lock:
            found = [r for r in self._requests if fnmatchcase(r.method, method) and fnmatchcase(r.path, path)]
            return tuple(replace(request) for request in found)

    def sent(self, pattern: str = "*") -> int:
        """Bytes of files sent so far, answers still under way included. `pattern` as in a fault."""
        with self._lock:
            return sum(sent for target, sent in self._sent.items() if fnmatchcase(target, pattern))

    def files(self, repo: str) -> tuple[RepoFile, ...] | None:
        """None when there is no such repository."""
        folder = self.root / repo
        if repo.count("/") != 1 or ".." in repo or not folder.is_dir():
            return None
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        return tuple(repo_file(path.relative_to(folder).as_posix(), path) for path in paths)

    def sha(self, repo: str) -> str:
        """The commit of a repository: the same content has the same commit, on every machine."""
        lines = [f"{file.name} {file.etag}" for file in self.files(repo) or ()]
        return hashlib.sha1("\n".join([repo, *lines]).encode()).hexdigest()

    def find(self, kind: type[F], target: str) -> F | None:
        """A fault that is set for `target` and has strikes left; it is not counted."""
        with self._lock:
            for fault in self._faults:
                left = fault.times is None or self._strikes.get(fault, 0) < fault.times
                if isinstance(fault, kind) and left and fnmatchcase(target, fault.pattern):
                    return fault
        return None

    def strike(self, fault: Fault) -> None:
        with self._lock:
            self._strikes[fault] = self._strikes.get(fault, 0) + 1

    def count(self, target: str, sent: int) -> None:
        with self._lock:
            self._sent[target] = self._sent.get(target, 0) + sent

    def record(self, request: Request) -> None:
        with self._lock:
            self._requests.append(request)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, hub: Hub, port: int) -> None:
        self.hub = hub
        super().__init__(("127.0.0.1", port), _Handler)
        # Accepted connections inherit this: `sent` then runs at most this far ahead of what a client's kernel holds.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, CHUNK)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are recorded, not printed."""

    def _answer(self) -> None:
        self.hub = self.server.hub
        path = unquote(urlsplit(self.path).path)
        # kept before the answer, so that a client that has its answer finds its request recorded
        self.request_now = Request(self.command, path, self.headers["Range"], self.headers["Authorization"])
        self.hub.record(self.request_now)
        try:
            if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/(.+))?", path):
                self._api(*found.groups())
            elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/(main|[0-9a-f]{40}|[^/]+)/(.+)", path):
                self._resolve(*found.groups())
            else:
                self._refuse(404, "EntryNotFound", "no such endpoint")
        except ConnectionError:
            self.close_connection = True

    def _open(self, repo: str, revision: str, target: str) -> tuple[RepoFile, ...] | None:
        """The repository's files, or None after a refusal was sent."""
        files = self.hub.files(repo)
        private = self.hub.find(Private, target)
        if private is not None and self.headers["Authorization"] != f"Bearer {private.token}":
            self.hub.strike(private)
            files = None
        if files is None:
            self._refuse(401 if self.headers["Authorization"] is None else 404, "RepoNotFound", "Repository not found")
            return None
        if revision not in ("main", self.hub.sha(repo)):
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return None
        if status := self.hub.find(Status, target):
            self.hub.strike(status)
            self._refuse(status.code, "", "broken on purpose")
            return None
        return files

    def _api(self, repo: str, verb: str | None, revision: str | None) -> None:
        target = f"{'tree' if verb == 'tree' else 'api'}:{repo}"
        files = self._open(repo, revision or "main", target)
        if files is None:
            return
        if stall := self.hub.find(Stall, target):
            self.hub.strike(stall)
            self.hub.closing.wait(stall.seconds)
        query = parse_qs(urlsplit(self.path).query)
        announced = [(file, file.size + self._resized(f"{repo}/{file.name}")) for file in files]
        if verb == "tree":
            start = int(query.get("cursor", ["0"])[0])
            end = start + self.hub.page_size
            following = f"{self.hub.url}{urlsplit(self.path).path}?recursive=true&cursor={end}"
            link = {"Link": f'<{following}>; rel="next"'} if end < len(files) else {}
            self._json([tree_row(file, size) for file, size in announced[start:end]], link)
            return
        gated = "manual" if self.hub.find(Gated, f"{repo}/") else False
        blobs = query.get("blobs", ["false"])[0].lower() == "true"
        rows = [sibling(file, size) if blobs else {"rfilename": file.name} for file, size in announced]
        self._json({"id": repo, "sha": self.hub.sha(repo), "private": False, "gated": gated, "siblings": rows})

    def _resized(self, target: str) -> int:
        resize = self.hub.find(Resize, target)
        return resize.by if resize else 0

    def _resolve(self, repo: str, revision: str, name: str) -> None:
        target = f"{repo}/{name}"
        files = self._open(repo, revision, target)
        if files is None:
            return
        gated = self.hub.find(Gated, target)
        if gated is not None and self.headers["Authorization"] != f"Bearer {gated.token}":
            self.hub.strike(gated)
            self._refuse(401 if self.headers["Authorization"] is None else 403, "GatedRepo", "Access is restricted")
            return
        file = next((file for file in files if file.name == name), None)
        if file is None:
            self._refuse(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": self.hub.sha(repo)})
            return
        span = self._span(file, target)
        if span is None:
            self._refuse(416, "", "range not satisfiable", {"Content-Range": f"bytes */{file.size}"})
            return
        start, end = span
        partial = (start, end) != (0, file.size)
        self._head(206 if partial else 200, end - start, self._file_headers(repo, file, target))
        if partial:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{file.size}")
        self.end_headers()
        if self.command == "GET":
            self._send(file, target, start, end)

    def _file_headers(self, repo: str, file: RepoFile, target: str) -> dict[str, str]:
        headers = {"X-Repo-Commit": self.hub.sha(repo), "ETag": f'"{file.etag}"', "Accept-Ranges": "bytes"}
        if file.sha256:
            headers["X-Linked-Etag"] = f'"{file.sha256}"'
            headers["X-Linked-Size"] = str(file.size + self._resized(target))
        return headers

    def _span(self, file: RepoFile, target: str) -> tuple[int, int] | None:
        """The half-open range of bytes that is asked for; None when the file has no such bytes."""
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers["Range"] or "")
        if asked is None:
            return 0, file.size
        if no_range := self.hub.find(NoRange, target):
            self.hub.strike(no_range)
            return 0, file.size
        start = int(asked[1])
        end = min(int(asked[2]) + 1, file.size) if asked[2] else file.size
        return (start, end) if start < end else None

    def _send(self, file: RepoFile, target: str, start: int, end: int) -> None:
        cut, stall = self.hub.find(Cut, target), self.hub.find(Stall, target)
        corrupt, slow = self.hub.find(Corrupt, target), self.hub.find(Slow, target)
        marks = [fault.at for fault in (cut, stall) if fault is not None]
        for at, chunk in chunks(file.path, start, end, marks):
            if cut is not None and at == cut.at:
                self.hub.strike(cut)
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            if stall is not None and at == stall.at:
                self.hub.strike(stall)
                self.hub.closing.wait(stall.seconds)
            if corrupt is not None and at <= corrupt.at < at + len(chunk):
                self.hub.strike(corrupt)
                chunk = flipped(chunk, corrupt.at - at)
            self.request_now.sent += len(chunk)
            self.hub.count(target, len(chunk))
            self.wfile.write(chunk)
            if slow is not None:
                self.hub.closing.wait(len(chunk) / slow.bytes_per_s)

    def _head(self, status: int, length: int, headers: dict[str, str]) -> None:
        self.request_now.status = status
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        for name, value in headers.items():
            self.send_header(name, value)

    def _json(self, value: Any, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(value).encode()
        self._head(200, len(body), {"Content-Type": "application/json", **(headers or {})})
        self.end_headers()
        self.request_now.sent = len(body)
        self.wfile.write(body)

    def _refuse(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        named = {"X-Error-Code": code} if code else {}
        self._head(status, 0, {"X-Error-Message": message, **named, **(headers or {})})
        self.end_headers()


def main() -> None:
    arguments = argparse.ArgumentParser(description="serve a folder of repositories as a Hugging Face hub")
    arguments.add_argument("--root", type=Path, required=True)
    arguments.add_argument("--port", type=int, default=0)
    options = arguments.parse_args()
    with Hub(options.root, port=options.port) as hub:
        print(hub.url, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
