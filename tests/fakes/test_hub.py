"""The fake hub is believed only as far as the real huggingface_hub client agrees with it."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tests.fakes.hub import Hub
from tests.fakes.hub_faults import Corrupt, Cut, Gated, NoRange, Private, Resize, Slow, Stall, Status

REPO = "acme/tiny"
WEIGHTS = bytes(range(256)) * 800  # 204,800 bytes: several chunks
CONFIG = b'{"model_type": "llama"}'
FILE = f"/{REPO}/resolve/main/model.safetensors"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    folder = tmp_path / "root" / REPO
    (folder / "extra").mkdir(parents=True)
    (folder / "config.json").write_bytes(CONFIG)
    (folder / "extra" / "notes one.txt").write_text("a name with a space, in a folder")
    (folder / "model.safetensors").write_bytes(WEIGHTS)
    (folder / "vocabulary.txt").write_bytes(b"x" * 1_000_001)
    with Hub(tmp_path / "root", page_size=3) as hub:
        yield hub


def get(hub: Hub, path: str, **headers: str) -> httpx.Response:
    return httpx.get(hub.url + path, headers=headers, timeout=5)


def test_the_real_client_downloads_a_whole_snapshot(hub: Hub, tmp_path: Path) -> None:
    path = Path(snapshot_download(REPO, endpoint=hub.url, cache_dir=tmp_path / "cache"))
    assert path.name == hub.sha(REPO)
    assert (path / "model.safetensors").read_bytes() == WEIGHTS
    assert (path / "extra" / "notes one.txt").is_file()
    # a blob is named by its ETag: the SHA-256 of an LFS file, git's blob id otherwise
    assert (path / "model.safetensors").resolve().name == hashlib.sha256(WEIGHTS).hexdigest()
    assert (path / "config.json").resolve().name == hashlib.sha1(b"blob 23\0" + CONFIG).hexdigest()
    assert hub.sent() == sum(file.size for file in hub.files(REPO) or ())
    assert hub.sent("*.safetensors") == len(WEIGHTS)


def test_the_real_client_reads_the_listings(hub: Hub) -> None:
    api = HfApi(endpoint=hub.url)
    tree = {file.path: file for file in api.list_repo_tree(REPO, recursive=True)}
    assert sorted(tree) == ["config.json", "extra/notes one.txt", "model.safetensors", "vocabulary.txt"]
    assert len(hub.requests(path="*/tree/*")) == 2, "four files on pages of three"
    assert tree["model.safetensors"].lfs.sha256 == hashlib.sha256(WEIGHTS).hexdigest()
    assert tree["vocabulary.txt"].lfs.size == 1_000_001, "above a megabyte the suffix does not matter"
    assert tree["config.json"].lfs is None
    info = api.model_info(REPO, files_metadata=True)
    assert info.sha == hub.sha(REPO)
    assert {s.rfilename: (s.size, s.blob_id) for s in info.siblings} == {
        f.path: (f.size, f.blob_id) for f in tree.values()
    }
    assert api.model_info(REPO, revision=info.sha).siblings[0].size is None, "sizes only where they were asked for"


def test_a_commit_depends_on_content_alone(hub: Hub, tmp_path: Path) -> None:
    before = hub.sha(REPO)
    os.utime(hub.root / REPO / "config.json", (1, 1))
    assert hub.sha(REPO) == before
    (hub.root / REPO / "config.json").write_bytes(CONFIG + b" ")
    assert hub.sha(REPO) != before


@pytest.mark.parametrize(
    ("asked", "status", "expected", "content_range"),
    [
        (None, 200, WEIGHTS, None),
        ("bytes=204000-", 206, WEIGHTS[204000:], "bytes 204000-204799/204800"),
        ("bytes=10-19", 206, WEIGHTS[10:20], "bytes 10-19/204800"),
        ("bytes=10-999999", 206, WEIGHTS[10:], "bytes 10-204799/204800"),
        ("bytes=204800-", 416, b"", "bytes */204800"),
    ],
)
def test_ranges(hub: Hub, asked: str | None, status: int, expected: bytes, content_range: str | None) -> None:
    response = get(hub, FILE, **({"Range": asked} if asked else {}))
    assert (response.status_code, response.content) == (status, expected)
    assert response.headers.get("Content-Range") == content_range
    assert response.headers["Content-Length"] == str(len(expected))
    (request,) = hub.requests("GET", FILE)
    assert (request.range, request.status, request.sent) == (asked, status, len(expected))


def test_a_head_tells_all_and_sends_nothing(hub: Hub) -> None:
    headers = httpx.head(hub.url + FILE).headers
    assert headers["X-Repo-Commit"] == hub.sha(REPO)
    assert headers["X-Linked-Etag"] == headers["ETag"] == f'"{hashlib.sha256(WEIGHTS).hexdigest()}"'
    assert headers["X-Linked-Size"] == headers["Content-Length"] == "204800"
    assert "X-Linked-Size" not in httpx.head(hub.url + f"/{REPO}/resolve/main/config.json").headers
    assert hub.sent() == 0


@pytest.mark.parametrize(
    ("repo", "name", "revision", "error"),
    [
        ("acme/none", "config.json", None, RepositoryNotFoundError),
        (REPO, "none.json", None, RemoteEntryNotFoundError),
        (REPO, "config.json", "v9", RevisionNotFoundError),
    ],
)
def test_what_is_not_there(
    hub: Hub, tmp_path: Path, repo: str, name: str, revision: str | None, error: type[Exception]
) -> None:
    with pytest.raises(error):
        hf_hub_download(repo, name, revision=revision, endpoint=hub.url, cache_dir=tmp_path / "cache")


@pytest.mark.parametrize(
    ("fault", "statuses"),
    [
        (Status("*.safetensors", times=2), [503, 503, 200]),
        (Status("*.safetensors", code=500), [500, 200, 200]),
        (Status("*/config.json"), [200, 200, 200]),
        (Status("*", code=429, times=None), [429, 429, 429]),
    ],
)
def test_a_fault_strikes_as_often_as_it_says_and_only_its_files(hub: Hub, fault: Status, statuses: list[int]) -> None:
    hub.break_with(fault)
    assert [get(hub, FILE).status_code for _ in statuses] == statuses
    assert hub.strikes(fault) == sum(status != 200 for status in statuses)


def test_a_status_for_the_api_leaves_files_alone(hub: Hub) -> None:
    hub.break_with(Status("api:acme/*", times=1))
    with pytest.raises(HfHubHTTPError, match="503"):
        HfApi(endpoint=hub.url).model_info(REPO)
    assert HfApi(endpoint=hub.url).model_info(REPO).sha == hub.sha(REPO)


def read_until_broken(hub: Hub, timeout: float, **headers: str) -> bytes:
    got = b""
    with pytest.raises((httpx.RemoteProtocolError, httpx.ReadTimeout)):  # noqa: SIM117
        with httpx.stream("GET", hub.url + FILE, headers=headers, timeout=timeout) as response:
            for chunk in response.iter_raw():
                got += chunk
    return got


def test_cut_closes_at_its_byte_once(hub: Hub) -> None:
    cut = Cut("*.safetensors", at=100_001)
    hub.break_with(cut)
    assert read_until_broken(hub, 5) == WEIGHTS[:100_001]
    assert hub.sent() == 100_001
    assert get(hub, FILE, Range="bytes=100001-").content == WEIGHTS[100_001:]
    assert hub.strikes(cut) == 1


def test_a_cut_counts_from_the_start_of_the_file_not_of_the_range(hub: Hub) -> None:
    hub.break_with(Cut("*.safetensors", at=100_001, times=None))
    assert read_until_broken(hub, 5, Range="bytes=100000-") == WEIGHTS[100_000:100_001]
    assert get(hub, FILE, Range="bytes=100002-").content == WEIGHTS[100_002:]


def test_stall_falls_silent_at_its_byte_and_leaving_wakes_it(hub: Hub) -> None:
    hub.break_with(Stall("*.safetensors", at=65_537, seconds=60))
    assert read_until_broken(hub, 0.3) == WEIGHTS[:65_537]
    begun = time.monotonic()
    hub.__exit__()
    assert time.monotonic() - begun < 5


def test_corrupt_changes_one_byte_and_no_length(hub: Hub) -> None:
    hub.break_with(Corrupt("*.safetensors", at=70_000))
    wrong = get(hub, FILE).content
    assert [i for i, (a, b) in enumerate(zip(wrong, WEIGHTS, strict=True)) if a != b] == [70_000]
    assert get(hub, FILE).content == WEIGHTS


@pytest.mark.parametrize("by", [100, -100])
def test_resize_lies_in_every_listing_but_sends_the_file(hub: Hub, by: int) -> None:
    hub.break_with(Resize("*.safetensors", by=by))
    api = HfApi(endpoint=hub.url)
    told = {file.path: file.size for file in api.list_repo_tree(REPO, recursive=True)}
    assert told["model.safetensors"] == len(WEIGHTS) + by
    assert told["config.json"] == len(CONFIG)
    (sibling,) = [s for s in api.model_info(REPO, files_metadata=True).siblings if s.rfilename == "model.safetensors"]
    assert sibling.size == sibling.lfs.size == len(WEIGHTS) + by
    response = get(hub, FILE)
    assert response.headers["X-Linked-Size"] == str(len(WEIGHTS) + by)
    assert response.content == WEIGHTS


def test_no_range_answers_with_the_whole_file(hub: Hub) -> None:
    fault = NoRange("*.safetensors")
    hub.break_with(fault)
    response = get(hub, FILE, Range="bytes=204000-")
    assert (response.status_code, len(response.content), hub.strikes(fault)) == (200, len(WEIGHTS), 1)


def test_slow_keeps_to_its_rate(hub: Hub) -> None:
    hub.break_with(Slow("*.safetensors", bytes_per_s=400_000))
    begun = time.monotonic()
    assert get(hub, FILE).content == WEIGHTS
    assert 0.45 < time.monotonic() - begun < 3


def test_gated_files_ask_for_the_token(hub: Hub, tmp_path: Path) -> None:
    hub.break_with(Gated(f"{REPO}/*"))
    fetch = {"endpoint": hub.url, "cache_dir": tmp_path / "cache"}
    assert HfApi(endpoint=hub.url).model_info(REPO).gated == "manual", "its metadata is public"
    for token in (False, "hf_other"):
        with pytest.raises(GatedRepoError):
            hf_hub_download(REPO, "config.json", token=token, **fetch)
    assert Path(hf_hub_download(REPO, "config.json", token="hf_accepted", **fetch)).read_bytes() == CONFIG
    assert {r.status for r in hub.requests("HEAD")} == {200, 401, 403}


def test_a_private_repository_is_as_unknown_as_none(hub: Hub) -> None:
    hub.break_with(Private("*"))
    with pytest.raises(RepositoryNotFoundError):
        HfApi(endpoint=hub.url, token=False).model_info(REPO)
    assert HfApi(endpoint=hub.url, token="hf_owner").model_info(REPO).id == REPO


@pytest.mark.parametrize("path", ["/acme/../acme/resolve/main/config.json", "/api/models/../root", "/api/datasets/a/b"])
def test_nothing_outside_the_repositories_is_served(hub: Hub, path: str) -> None:
    request = httpx.Request("GET", hub.url)
    request.url = request.url.copy_with(raw_path=path.encode())
    with httpx.Client() as client:
        assert client.send(request).status_code in (401, 404)


def test_it_runs_as_a_program(hub: Hub) -> None:
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.fakes.hub", "--root", str(hub.root)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    try:
        assert child.stdout is not None
        url = child.stdout.readline().strip()
        assert url.startswith("http://127.0.0.1:")
        assert HfApi(endpoint=url).model_info(REPO).sha == hub.sha(REPO)
    finally:
        child.kill()
        child.communicate()
