"""Weights from the hub's cache and from the hub, which here is a server on the loopback interface."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub
import huggingface_hub.constants
import huggingface_hub.errors
import pytest

from ovbench._base.errors import ConfigError, DataError
from ovbench.encoders.modeling import sources
from ovbench.encoders.modeling.frontend import VAE_FILES
from ovbench.encoders.modeling.sources import hub_folder
from ovbench.encoders.registry import families, load_encoder, parse_encoder
from tests.encoders.published import flux_like_vae, read_golden, write_open_clip

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OPEN_CLIP = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")


class Hub:
    """A hub with one repository, and what was asked of it."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.gated = False
        self.asked: list[str] = []

    @property
    def fetched(self) -> set[str]:
        """Files whose content was sent."""
        return {path.partition(f"{COMMIT}/")[2] for path in self.asked if path.startswith("GET /owner/name/resolve")}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub's client, which is not offline."""
    place = tmp_path / "cache"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(place))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    return place


@pytest.fixture
def hub(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub on the loopback interface."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            """Says nothing."""

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, *, body: bool) -> None:
            path = self.path.partition("?")[0]
            hub.asked.append(f"{self.command} {path}")
            tree, file = f"/api/models/owner/name/tree/{COMMIT}", f"/owner/name/resolve/{COMMIT}/"
            data, code, headers = b"", 404, {"X-Error-Code": "RepoNotFound"}
            if path == tree:
                entries = [
                    {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                    for name, content in hub.files.items()
                ]
                data, code, headers = json.dumps(entries).encode(), 200, {"Content-Type": "application/json"}
            elif path.startswith("/api/models/owner/name/tree/"):
                headers = {"X-Error-Code": "RevisionNotFound"}
            elif path.startswith(file) and hub.gated:
                code, headers = 403, {"X-Error-Code": "GatedRepo"}
            elif path.startswith(file):
                data, code = hub.files[path.removeprefix(file)], 200
                headers = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": COMMIT}
            self.send_response(code)
            for name, value in {**headers, "Content-Length": str(len(data))}.items():
                self.send_header(name, value)
            self.end_headers()
            if body:
                self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
    monkeypatch.setattr(
        huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
    )
    yield hub
    server.shutdown()
    thread.join()
    server.server_close()


def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def cached(cache: Path, hub_id: str, commit: str = COMMIT) -> Path:
    """Returns the folder of a repository, or of a folder in it, in the cache's layout."""
    owner, name, *inside = hub_id.split("/")
    return cache.joinpath(f"models--{owner}--{name}", "snapshots", commit, *inside)


# --- from the cache


def test_a_cached_snapshot_is_used_without_the_hub(cache: Path, hub: Hub) -> None:
    golden = read_golden("openvision2_tiny")
    write_open_clip(cached(cache, "owner/name"), golden.model_cfg(), golden.state)
    from_hub = load_encoder(f"ovis2:owner/name@{COMMIT}").info
    assert from_hub.grid == (4, 4)
    assert hub.asked == []
    folder = write_open_clip(cache.parent / "folder", golden.model_cfg(), golden.state)
    assert from_hub.identity == load_encoder(f"ovis2:{folder}").info.identity  # the place is no part of it


def test_a_cached_vae_in_front_and_a_folder_of_a_repository_are_used_without_the_hub(cache: Path, hub: Hub) -> None:
    golden = read_golden("openvision3_tiny")
    write_open_clip(cached(cache, "owner/ov3"), golden.model_cfg(), golden.state)
    flux_like_vae(cached(cache, "owner/flux/vae"))
    spec = f"ovis3/base-256:owner/ov3@{COMMIT}?vae=owner/flux/vae@{COMMIT}"
    assert load_encoder(spec).info.input.size == (128, 128)
    assert load_encoder(f"vae/flux:owner/flux/vae@{COMMIT}?size=64").info.grid == (8, 8)
    assert hub.asked == []


def test_a_pinned_variant_is_found_under_its_own_commit(cache: Path, hub: Hub) -> None:
    (variant,) = (each for each in families()["vae"].variants if each.name == "sd3")
    flux_like_vae(cached(cache, variant.weights, variant.revision))  # owner/repository/vae
    assert load_encoder("vae/sd3?size=64").info.grid == (8, 8)
    assert hub.asked == []


def test_everything_cached_loads_offline_in_a_process_of_its_own(tmp_path: Path) -> None:
    golden = read_golden("openvision2_tiny")
    write_open_clip(cached(tmp_path, "owner/name"), golden.model_cfg(), golden.state, safetensors=True)
    code = f"""
import socket
def refuse(*args, **kwargs):
    raise AssertionError("a connection was opened")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
from ovbench._base.errors import DataError
from ovbench.encoders.registry import load_encoder
print(load_encoder("ovis2:owner/name@{COMMIT}").info.grid)
try:
    load_encoder("ovis2:owner/absent@{COMMIT}")
except DataError as error:
    print(error)
"""
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("(4, 4)\nerror: 'owner/absent' at 0123456789ab is not in the hub's cache")
    assert "ovis2/large-14-224:/path" in run.stdout


def test_offline_and_absent_is_an_error_that_names_the_way_out(
    cache: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    offline(monkeypatch)
    with pytest.raises(DataError, match=f"'owner/name' at {COMMIT[:12]} is not in the hub's cache") as caught:
        load_encoder(f"ovis2:owner/name@{COMMIT}")
    assert "HF_HUB_OFFLINE is set" in caught.value.what
    assert "--encoder ovis2/large-14-224:/path" in caught.value.fix
    assert hub.asked == []


@pytest.mark.parametrize(
    "missing", ["open_clip_config.json", "open_clip_pytorch_model.bin", "model-00002-of-00002.safetensors"]
)
def test_a_snapshot_with_a_part_missing_is_not_taken_for_complete(
    cache: Path, hub: Hub, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    offline(monkeypatch)
    names = ["open_clip_config.json", "open_clip_pytorch_model.bin"]
    weights = OPEN_CLIP
    if missing.startswith("model-"):
        names = ["config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
        weights = sources.TRANSFORMERS_WEIGHTS
    place = cached(cache, "owner/name")
    place.mkdir(parents=True)
    for name in names:
        (place / name).write_bytes(b"x")
    assert hub_folder("owner/name", COMMIT, spec="x:", weights=weights) == place
    (place / missing).unlink()
    (place / missing).symlink_to(place / "blob-that-was-deleted")
    with pytest.raises(DataError, match="not in the hub's cache"):
        hub_folder("owner/name", COMMIT, spec="x:", weights=weights)


# --- from the hub

BESIDE = ["README.md", "caption_decoder.safetensors", "flax_model.msgpack", "optimizer.bin", "rust_model.ot"]
OTHERS = dict.fromkeys([*BESIDE, "tf_model.h5", "tokenizer.json", "training_args.bin"], b"0")


def fetch(weights: tuple[str, ...], hub_id: str = "owner/name") -> set[str]:
    """Returns the names of what lies in the folder that was fetched."""
    return {path.name for path in hub_folder(hub_id, COMMIT, spec="x:", weights=weights).iterdir()}


def test_safetensors_are_fetched_and_not_the_pickled_file_too(hub: Hub) -> None:
    hub.files = {"config.json": b"{}", "model.safetensors": b"abc", "pytorch_model.bin": b"defg", **OTHERS}
    assert fetch(sources.TRANSFORMERS_WEIGHTS) == {"config.json", "model.safetensors"}
    assert hub.fetched == {"config.json", "model.safetensors"}


def test_the_pickled_file_is_fetched_where_there_is_no_other(hub: Hub) -> None:
    # caption_decoder.safetensors lies beside OpenVision 2's weights, and is none of them.
    hub.files = {"open_clip_config.json": b"{}", "open_clip_pytorch_model.bin": b"abc", **OTHERS}
    assert fetch(OPEN_CLIP) == {"open_clip_config.json", "open_clip_pytorch_model.bin"}
    assert hub.fetched == {"open_clip_config.json", "open_clip_pytorch_model.bin"}


def test_the_layout_that_is_read_is_fetched_and_no_other(hub: Hub) -> None:
    hub.files = {"open_clip_config.json": b"{}", "config.json": b"{}", "model.safetensors": b"a",
                 "open_clip_model.safetensors": b"b"}  # fmt: skip
    assert "model.safetensors" not in fetch(OPEN_CLIP)


def test_all_shards_are_fetched_with_their_index(hub: Hub) -> None:
    shards = {f"model-0000{number}-of-00002.safetensors": b"abc" for number in (1, 2)}
    hub.files = {"config.json": b"{}", "model.safetensors.index.json": b"{}", **shards, **OTHERS}
    assert fetch(sources.TRANSFORMERS_WEIGHTS) == {"config.json", "model.safetensors.index.json", *shards}


def test_a_folder_of_a_repository_is_fetched_alone(hub: Hub) -> None:
    hub.files = {
        "config.json": b"{}",
        "vae/config.json": b"{}",
        "vae/diffusion_pytorch_model.safetensors": b"abc",
        "vae/diffusion_pytorch_model.fp16.safetensors": b"ab",
        "transformer/diffusion_pytorch_model.safetensors": b"x" * 1000,
    }
    assert fetch(VAE_FILES, "owner/name/vae") == {"config.json", "diffusion_pytorch_model.safetensors"}
    assert hub.fetched == {"vae/config.json", "vae/diffusion_pytorch_model.safetensors"}


@pytest.mark.parametrize("pickled", [False, True])
def test_what_was_fetched_once_is_there_offline(hub: Hub, pickled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.files = {"config.json": b"{}", "pytorch_model.bin": b"defg", "tokenizer.json": b"{}"}
    hub.files |= {} if pickled else {"model.safetensors": b"abc"}
    first = hub_folder("owner/name", COMMIT, spec="x:")
    hub.asked.clear()
    offline(monkeypatch)
    assert hub_folder("owner/name", COMMIT, spec="x:") == first
    assert hub.asked == []


def test_a_download_that_broke_off_is_completed(cache: Path, hub: Hub) -> None:
    hub.files = {"config.json": b"{}", "model.safetensors": b"abc"}
    first = hub_folder("owner/name", COMMIT, spec="x:")
    (first / "model.safetensors").unlink()
    assert (hub_folder("owner/name", COMMIT, spec="x:") / "model.safetensors").read_bytes() == b"abc"


# --- what can go wrong


def test_a_repository_without_weights_is_an_error(hub: Hub) -> None:
    hub.files = {"config.json": b"{}", **OTHERS}
    with pytest.raises(DataError, match=r"holds no weights \(none of open_clip_model\.safetensors") as caught:
        fetch(OPEN_CLIP)
    assert "layout of this family" in caught.value.fix


def test_a_repository_that_is_not_there_is_an_error(hub: Hub) -> None:
    with pytest.raises(DataError, match="cannot fetch 'owner/other': there is no such repository") as caught:
        load_encoder(f"ovis2:owner/other@{COMMIT}")
    assert "https://huggingface.co/owner/other" in caught.value.fix
    assert "ovis2/large-14-224:/path" in caught.value.fix


def test_a_commit_that_is_not_there_is_an_error(hub: Hub) -> None:
    with pytest.raises(DataError, match=f"it has no commit {'f' * 40}"):
        load_encoder(f"ovis2:owner/name@{'f' * 40}")


def test_a_gated_repository_says_how_to_be_let_in(hub: Hub) -> None:
    hub.files, hub.gated = {"config.json": b"{}", "diffusion_pytorch_model.safetensors": b"abc"}, True
    with pytest.raises(DataError, match="its owner asks for an agreement first") as caught:
        load_encoder(f"vae/flux:owner/name@{COMMIT}")
    for part in ("accept it at https://huggingface.co/owner/name", "hf auth login", "vae/flux:/path"):
        assert part in caught.value.fix


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (TimeoutError("timed out"), "TimeoutError: timed out"),
        (ConnectionError("Name or service not known\nsecond line"), "ConnectionError: Name or service not known"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (RuntimeError(""), "RuntimeError: RuntimeError"),
    ],
)
def test_any_other_failure_of_the_client_is_named(
    cache: Path, error: Exception, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def snapshot_download(*_args: Any, local_files_only: bool, **_fields: Any) -> str:
        if local_files_only:
            raise huggingface_hub.errors.LocalEntryNotFoundError("not here")
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(DataError, match=what) as caught:
        load_encoder(f"ovis2:owner/name@{COMMIT}")
    assert caught.value.where == "--encoder ovis2/large-14-224:…"
    assert "put the repository's files into a folder" in caught.value.fix
    assert "second line" not in str(caught.value)


def test_the_cause_behind_a_lost_connection_is_named(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot_download(*_args: Any, **_fields: Any) -> str:
        raise huggingface_hub.errors.LocalEntryNotFoundError("long advice") from TimeoutError("10 s passed")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(DataError, match="cannot fetch 'owner/name': TimeoutError: 10 s passed"):
        load_encoder(f"ovis2:owner/name@{COMMIT}")


def test_a_cache_that_cannot_be_read_is_named(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot_download(*_args: Any, **_fields: Any) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(DataError, match="the hub's cache cannot be read: .*Permission denied"):
        load_encoder(f"ovis2:owner/name@{COMMIT}")


# --- commits and ids


@pytest.mark.parametrize("revision", ["main", "v1.0", COMMIT[:7], COMMIT.upper(), COMMIT + "0", "refs/pr/1", ""])
def test_a_branch_a_tag_or_a_short_commit_is_refused(revision: str, cache: Path, hub: Hub) -> None:
    with pytest.raises(ConfigError, match="needs the commit of its repository") as caught:
        parse_encoder(f"ovis2:owner/name@{revision}")
    assert "40 hex digits" in caught.value.fix
    golden = read_golden("openvision3_tiny")
    folder = write_open_clip(cache.parent / "ov3", golden.model_cfg(), golden.state)
    with pytest.raises(ConfigError, match=r"is no commit of|no commit of it is pinned"):
        load_encoder(f"ovis3/base-256:{folder}?vae=owner/name@{revision}")
    assert hub.asked == []


UNPINNED = [
    f"{family.key}/{variant.name}"
    for family in families().values()
    for variant in family.variants
    if variant.origin == "hub" and not variant.revision
]


@pytest.mark.parametrize("spec", UNPINNED)
def test_a_variant_whose_commit_is_not_known_asks_for_one(spec: str, cache: Path, hub: Hub) -> None:
    with pytest.raises(ConfigError, match="no commit of it is pinned in ovbench") as caught:
        load_encoder(spec)
    assert f"{spec}:UCSC-VLAA/" in caught.value.fix
    assert "@COMMIT" in caught.value.fix
    assert f"{spec}:/path" in caught.value.fix
    assert hub.asked == []


def test_the_variants_without_a_commit_are_openvisions() -> None:
    assert {spec.partition("/")[0] for spec in UNPINNED} == {"ovis1", "ovis2", "ovis3"}


@pytest.mark.parametrize("hub_id", ["name", "owner/", "/name/x/../..", "owner/name/../../../etc", "owner/./x"])
def test_an_id_that_is_none_is_refused(hub_id: str) -> None:
    with pytest.raises(ConfigError, match="is no hub id"):
        hub_folder(hub_id, COMMIT, spec="x:")


def test_an_id_that_the_client_refuses_is_an_error(cache: Path, hub: Hub) -> None:
    with pytest.raises(DataError, match="owner/na--me"):
        load_encoder(f"ovis2:owner/na--me@{COMMIT}")
