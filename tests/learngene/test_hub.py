"""Learngenes on a hub: a local server that answers as one does (hub_server.py); never a live one."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from commands import gtl as run
from gene_files import make_gene

huggingface_hub = pytest.importorskip("huggingface_hub")

from hub_server import ENDLESS, TOKEN, Hub, serving  # noqa: E402

import gtl  # noqa: E402
from gtl.errors import ConfigError, HubError, LearngeneError  # noqa: E402
from gtl.learngene.hub import fetch, push  # noqa: E402
from gtl.report.run import export_gene  # noqa: E402

PNG = b"\x89PNG\r\n\x1a\n" + bytes(100)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub of its own, and a library that knows no other: endpoint, cache and token."""
    from huggingface_hub import constants, file_download

    with serving() as server:
        for name, value in {
            "ENDPOINT": server.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": server.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(tmp_path / "cache"),
            "HF_HUB_DISABLE_XET": True,
            "HF_TOKEN_PATH": str(tmp_path / "no-token"),
        }.items():
            monkeypatch.setattr(constants, name, value)
        # between attempts it waits a second
        monkeypatch.setattr(file_download, "time", SimpleNamespace(sleep=lambda seconds: None, time=time.time))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What `gtl export --out` leaves, with a picture."""
    export_gene(make_gene(), tmp_path / "mine/learngene.safetensors", pictures={"channels.png": PNG}, license_id="mit")
    (tmp_path / "mine/notes.txt").write_text("not for the hub")
    return tmp_path / "mine"


def file_of(folder: Path) -> bytes:
    return (folder / "learngene.safetensors").read_bytes()


def test_what_is_pushed_is_what_is_pulled(hub: Hub, folder: Path, tmp_path: Path) -> None:
    pushed = push(folder, "me/flowers")
    assert set(pushed.files) == {"learngene.safetensors", "README.md", "channels.png"}
    tree = hub.repositories["me/flowers"].commits[pushed.commit]
    assert set(tree) == {*pushed.files, ".gitattributes"}, "nothing else of the folder"
    assert tree["README.md"] == (folder / "CARD.md").read_bytes() and tree["channels.png"] == PNG
    assert tree["learngene.safetensors"] == file_of(folder)
    fetched = fetch("me/flowers")
    assert (fetched.data, fetched.commit) == (file_of(folder), pushed.commit)
    assert gtl.Learngene.from_pretrained("me/flowers").digest == make_gene().digest


def test_only_the_learngene_is_fetched_and_only_once(hub: Hub, folder: Path) -> None:
    hub.repository("me/flowers", learngene__safetensors=file_of(folder), evil__py=b"print()", model__pkl=b"\x80")
    fetch("me/flowers")
    assert hub.sent == len(file_of(folder))
    assert {request.split("/resolve/")[1].split("/")[1] for request in hub.requests} == {"learngene.safetensors"}
    fetch("me/flowers")
    assert hub.sent == len(file_of(folder)), "the second time it comes from the cache"


def test_pushing_again_overwrites_nothing_unasked(hub: Hub, folder: Path) -> None:
    first = push(folder, "me/flowers")
    assert push(folder, "me/flowers").commit  # equal files are no news
    hub.repositories["me/flowers"].commit("main", {"README.md": b"---\nlicense: mit\n---\nedited on its page"})
    with pytest.raises(HubError, match=r"another README.md already.*--update"):
        push(folder, "me/flowers")
    updated = push(folder, "me/flowers", update=True)
    repository = hub.repositories["me/flowers"]
    assert repository.branches["main"] == updated.commit and first.commit in repository.commits
    assert repository.commits[updated.commit]["README.md"] == (folder / "CARD.md").read_bytes()


def test_branches(hub: Hub, folder: Path, tmp_path: Path) -> None:
    push(folder, "me/flowers")
    other = make_gene(seed=5)
    export_gene(other, tmp_path / "other/learngene.safetensors")
    pushed = push(tmp_path / "other", "me/flowers", revision="v2", update=True)
    assert gtl.Learngene.from_pretrained("me/flowers", "v2").digest == other.digest
    assert gtl.Learngene.from_pretrained("me/flowers", revision=pushed.commit).digest == other.digest
    assert gtl.Learngene.from_pretrained("me/flowers").digest == make_gene().digest


def test_private_is_private(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    push(folder, "me/secret", private=True)
    assert hub.repositories["me/secret"].private
    push(folder, "me/open")
    with pytest.raises(HubError, match="already and public"):
        push(folder, "me/open", private=True)
    monkeypatch.delenv("HF_TOKEN")
    assert fetch("me/open").data == file_of(folder)
    with pytest.raises(HubError, match="no such repository, or it is private"):
        fetch("me/secret")


@pytest.mark.parametrize(
    "name,revision,said",
    [
        ("me/nothing", None, "me/nothing at main: there is no such repository"),
        ("me/flowers", "v9", "me/flowers at v9: the repository has no such branch"),
        ("me/plain", None, "has no learngene.safetensors, so it holds no learngene"),
    ],
)
def test_what_is_not_there(name: str, revision: str | None, said: str, hub: Hub, folder: Path) -> None:
    hub.repository("me/flowers", learngene__safetensors=file_of(folder))
    hub.repository("me/plain")
    with pytest.raises(HubError, match=said):
        gtl.Learngene.from_pretrained(name, revision)


def test_a_wrong_token(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repository("me/flowers", learngene__safetensors=file_of(folder))
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    for ask in (lambda: fetch("me/flowers"), lambda: push(folder, "me/flowers")):
        with pytest.raises(HubError, match="does not accept your token; log in"):
            ask()
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with pytest.raises(HubError, match="your token may not"):
        push(folder, "somebody/else")


def test_what_is_too_large_is_never_fetched(hub: Hub, folder: Path) -> None:
    hub.repository("me/flowers", learngene__safetensors=file_of(folder))
    with pytest.raises(LearngeneError, match=r"more than the limit of 100; not fetched"):
        gtl.Learngene.from_pretrained("me/flowers", limit=100)
    hub.trouble = ("size", 100 << 30)
    with pytest.raises(LearngeneError, match=r"has 107374182400 bytes, more than the limit of 1073741824"):
        fetch("me/flowers")
    assert hub.sent == 0


def test_a_download_that_brings_more_than_announced_is_cut_off(hub: Hub, folder: Path) -> None:
    hub.repository("me/flowers", learngene__safetensors=file_of(folder))
    hub.trouble = "endless"
    with pytest.raises(LearngeneError, match="longer than the hub said"):
        fetch("me/flowers", limit=1 << 20)
    assert hub.sent < ENDLESS // 2


def test_a_branch_that_moves_meanwhile(hub: Hub, folder: Path) -> None:
    hub.repository("me/flowers", learngene__safetensors=file_of(folder))
    hub.trouble = "moving"
    with pytest.raises(HubError, match="committed to while it was fetched; try again"):
        fetch("me/flowers")


def test_a_hostile_file_is_refused_by_the_strict_reader(hub: Hub, folder: Path, tmp_path: Path) -> None:
    data = bytearray(file_of(folder))
    data[-1] ^= 1
    hub.repository("me/flowers", learngene__safetensors=bytes(data))
    with pytest.raises(LearngeneError, match=r"me/flowers at [0-9a-f]{12}: .*changed after saving"):
        gtl.Learngene.from_pretrained("me/flowers")
    assert run("pull", "me/flowers", "--out", tmp_path / "gene.safetensors") == 65
    assert not (tmp_path / "gene.safetensors").exists()


def test_a_download_that_breaks_off(hub: Hub, folder: Path) -> None:
    hub.repository("me/flowers", learngene__safetensors=file_of(folder))
    hub.trouble = "cut"
    with pytest.raises(HubError, match="me/flowers at main"):
        fetch("me/flowers")
    hub.trouble = "cut once"
    assert fetch("me/flowers").data == file_of(folder)


def test_without_the_hub_the_cache_serves(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = hub.repository("me/flowers", learngene__safetensors=file_of(folder))
    first = fetch("me/flowers")
    hub.trouble = "busy"
    with pytest.warns(UserWarning, match="cannot be reached"):
        assert fetch("me/flowers") == first
    with pytest.raises(HubError, match="me/other at main"):
        fetch("me/other")
    hub.trouble = None
    del hub.repositories["me/flowers"]
    with pytest.raises(HubError, match="no such repository"):  # a plain no is not hidden by the cache
        fetch("me/flowers")
    hub.repositories["me/flowers"] = repository
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    asked = len(hub.requests)
    with pytest.warns(UserWarning, match="cannot be reached"):
        assert fetch("me/flowers") == first
    with pytest.raises(HubError, match="HF_HUB_OFFLINE forbids"):
        fetch("me/other")
    assert len(hub.requests) == asked


def test_local_comes_first(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = make_gene().digest
    assert gtl.Learngene.from_pretrained(folder).digest == digest
    assert gtl.Learngene.from_pretrained(str(folder / "learngene.safetensors")).digest == digest
    monkeypatch.chdir(folder.parent)
    Path("me").mkdir()
    with pytest.raises(ConfigError, match="no revisions"):
        gtl.Learngene.from_pretrained(folder, "v1")
    with pytest.raises(LearngeneError, match="is a folder without"):
        gtl.Learngene.from_pretrained("me")
    for name in ("nothing", "a/b/c", "./a/b", "a/b.safetensors", "x" * 5000, "a b/c", "/me/x"):
        with pytest.raises(LearngeneError, match="no such file or folder"):
            gtl.Learngene.from_pretrained(name)
    assert hub.requests == []


@pytest.mark.parametrize(
    "spoil,said",
    [
        (lambda folder: (folder / "CARD.md").unlink(), "make one with: gtl export"),
        (lambda folder: (folder / "CARD.md").write_text("of another"), "is not about"),
        (lambda folder: (folder / "learngene.safetensors").write_bytes(b"x"), "not a safetensors file"),
        (lambda folder: (folder / "learngene.safetensors").unlink(), "cannot be opened"),
    ],
)
def test_a_folder_that_is_none(spoil: object, said: str, hub: Hub, folder: Path) -> None:
    assert callable(spoil)
    spoil(folder)
    with pytest.raises(LearngeneError, match=said):
        push(folder, "me/flowers")
    assert hub.requests == []
    with pytest.raises(ConfigError, match="OWNER/NAME"):
        fetch("no-owner")


def test_the_commands(hub: Hub, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("push", folder, "me/flowers") == 0
    assert "README.md" in capsys.readouterr().out
    out = tmp_path / "gene.safetensors"
    assert run("pull", "me/flowers", "--out", out) == 0
    assert out.read_bytes() == file_of(folder)
    assert run("pull", "me/flowers", "--out", out) == 0  # the same again
    out.write_bytes(b"mine")
    assert run("pull", "me/flowers", "--out", out) == 74 and out.read_bytes() == b"mine"
    assert "is something else" in capsys.readouterr().err
    assert run("pull", "me/nothing", "--out", tmp_path / "two.safetensors") == 69
    hub.trouble = ("size", 3 << 20)
    assert run("pull", "me/flowers", "--limit", 2, "--out", tmp_path / "two.safetensors") == 65
    assert not (tmp_path / "two.safetensors").exists()


@pytest.mark.slow
def test_another_hub_by_its_address(hub: Hub, folder: Path, tmp_path: Path) -> None:
    """As a user sets it: by the environment, in processes of their own."""
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    for words in (("push", str(folder), "me/flowers"), ("pull", "me/flowers", "-o", "pulled.safetensors")):
        done = subprocess.run(
            [sys.executable, "-m", "gtl", *words],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "pulled.safetensors").read_bytes() == file_of(folder)
