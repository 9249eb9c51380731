"""Learngenes on a model hub, through huggingface_hub (the extra ``hub``): fetched by name, pushed with their card.

Of a repository one file is fetched, ``learngene.safetensors``; its size is asked for first, and the strict loader reads it.
Which hub it is, who is logged in and where downloads are kept is that library's affair (``HF_ENDPOINT``, ``HF_TOKEN``,
``HF_HUB_CACHE``, ``HF_HUB_OFFLINE``).
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gtl.errors import ConfigError, GtlError, HubError, LearngeneError, StorageError
from gtl.learngene import container
from gtl.learngene.artifact import Learngene
from gtl.learngene.container import MAX_FILE

FILE = "learngene.safetensors"
CARD = "CARD.md"  # beside the file; on the hub it is README, which is what a hub shows
README = "README.md"
MAX_PICTURE = 10 << 20

_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_PICTURES = re.compile(r"!\[[^\]]*\]\(([A-Za-z0-9_-][\w.-]*\.png)\)")
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS}


@dataclass(frozen=True)
class Fetched:
    """A learngene file from a hub.

    Attributes:
        data: its bytes, as they are on the hub; not read yet.
        commit: of the repository, 40 hex digits: a revision that stays what it is.
    """

    data: bytes
    commit: str


@dataclass(frozen=True)
class Pushed:
    """What a push left on the hub.

    Attributes:
        url: of the commit.
        commit: 40 hex digits.
        files: names in the repository.
    """

    url: str
    commit: str
    files: tuple[str, ...]


def from_pretrained(
    name_or_path: str | os.PathLike[str], revision: str | None = None, *, limit: int = MAX_FILE
) -> Learngene:
    """A learngene by the path of its file, by that of a folder with a ``learngene.safetensors``, or by its name on the hub.

    What is there locally comes before the hub.

    Args:
        name_or_path: for the hub, ``OWNER/NAME``.
        revision: branch, tag or commit on the hub.
        limit: largest file accepted, in bytes; a larger one is not downloaded.

    Raises:
        HubError, ConfigError: as `fetch`.
        LearngeneError: neither there nor a name, or the file cannot be read or trusted.
    """
    name, path = os.fspath(name_or_path), Path(name_or_path)
    try:
        is_there, is_folder = path.exists(), path.is_dir()
    except OSError:  # longer than names may be
        is_there = is_folder = False
    if is_folder and not (path / FILE).exists():
        raise LearngeneError(f"{path} is a folder without a {FILE}; give the file, or a folder that has it")
    if is_there:
        if revision is not None:
            raise ConfigError(f"{path} is on this disk and has no revisions; leave revision={revision!r} out")
        return Learngene.load(path / FILE if is_folder else path, limit=limit)
    if not isinstance(name_or_path, str) or not _NAME.fullmatch(name) or name.endswith(".safetensors"):
        raise LearngeneError(
            f"{name[:200]}: there is no such file or folder, and it is no name on a hub, such as 'someone/flowers-gene'"
        )
    fetched = fetch(name, revision, limit=limit)
    return Learngene.from_bytes(fetched.data, source=f"{name} at {fetched.commit[:12]}")


def fetch(repo_id: str, revision: str | None = None, *, limit: int = MAX_FILE) -> Fetched:
    """The learngene file of a repository, from the hub or from the library's cache of what was downloaded before.

    The hub is asked for the size first, and the download is cut off where it brings more than `limit`. Where the hub cannot
    be reached, the copy in the cache is taken, with a warning.

    Raises:
        ConfigError: huggingface_hub is not installed, or this is no name of a repository.
        HubError: no such repository, revision or file, not permitted, cut off, or not reachable and not in the cache.
        LearngeneError: larger than `limit`, or the hub does not say how large.
        StorageError: the disk refused.
    """
    api, where = _api(repo_id), f"{repo_id} at {revision or 'main'}"
    from huggingface_hub import hf_hub_url

    with _refusing(where):
        try:
            url = hf_hub_url(repo_id, FILE, revision=revision, endpoint=api.endpoint)
            found = api.get_hf_file_metadata(url=url)
        except Exception as error:  # of that library, of the HTTP library below it, of the system
            if _was_answered(error):
                raise
            path = _cached(api, repo_id, revision)
            if path is None:
                raise
            warnings.warn(f"{where}: the hub cannot be reached, its copy in the cache is used ({error})", stacklevel=2)
            return Fetched(_bytes(path, limit, where), path.parent.name)
        size, commit = found.size, found.commit_hash
        if size is None or commit is None or not _COMMIT.fullmatch(commit):
            raise LearngeneError(f"{where}: the hub does not say how large {FILE} is, or of which commit; not fetched")
        if size > limit:
            raise LearngeneError(f"{where}: {FILE} has {size} bytes, more than the limit of {limit}; not fetched")
        path = Path(api.hf_hub_download(repo_id, FILE, revision=revision, tqdm_class=_bar(limit, where)))
        if path.parent.name != commit:  # the library files downloads by commit
            raise HubError(
                f"{where} was committed to while it was fetched; try again, or name a commit as the revision"
            )
    return Fetched(_bytes(path, limit, where), commit)


def push(
    folder: Path, repo_id: str, *, private: bool = False, revision: str | None = None, update: bool = False
) -> Pushed:
    """Put a folder that ``gtl export --out`` wrote on the hub: the learngene, its card as README, the card's pictures.

    The repository is made if there is none. One commit; nothing else in the repository is touched.

    Args:
        private: make the repository private. One that is public already is refused.
        revision: branch to commit to, made if there is none.
        update: commit over a learngene or a card that is there and differs. The older ones stay in the history.

    Raises:
        ConfigError: huggingface_hub is not installed, or this is no name of a repository.
        LearngeneError: the folder has no learngene or no card of it, or it cannot be read.
        HubError: not permitted, something else is there, or not reachable.
    """
    files = _files(folder)
    api = _api(repo_id)
    from huggingface_hub import CommitOperationAdd

    with _refusing(repo_id):
        api.create_repo(repo_id, private=private or None, exist_ok=True)
        if private and not api.model_info(repo_id).private:
            raise HubError(f"{repo_id} is there already and public; make it private on its page, or give another name")
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        there = {info.path: info for info in api.get_paths_info(repo_id, list(files), revision=revision)}
        other = [name for name in (FILE, README) if name in there and not _is_same(there[name], files[name])]
        if other and not update:
            raise HubError(
                f"{repo_id} has another {' and another '.join(other)} already; give another name or --revision, or commit "
                "over it with --update (what was there stays in its history)"
            )
        operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=data) for name, data in files.items()]
        commit = api.create_commit(repo_id, operations, commit_message="Learngene and card", revision=revision)
    return Pushed(str(commit.commit_url), str(commit.oid), tuple(files))


def _api(repo_id: str) -> Any:
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise ConfigError(f"hubs need huggingface_hub ({error}): pip install 'gtl[hub]'") from None
    if not _NAME.fullmatch(repo_id):
        raise ConfigError(f"{repo_id!r} is no name of a repository; they are OWNER/NAME, such as someone/flowers-gene")
    return HfApi()


def _files(folder: Path) -> dict[str, bytes]:
    """Name on the hub -> content."""
    data = _bytes(folder / FILE, MAX_FILE, str(folder / FILE))
    gene, card = Learngene.from_bytes(data, source=str(folder / FILE)), folder / CARD
    try:
        text = card.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise LearngeneError(
            f"{card} cannot be read ({error}); make one with: gtl export {folder / FILE} --out {folder}"
        ) from None
    if gene.digest not in text:
        raise LearngeneError(f"{card} is not about {folder / FILE}: its digest {gene.digest[:12]}... is not in there")
    files = {FILE: data, README: text.encode()}
    for name in dict.fromkeys(_PICTURES.findall(text)):
        picture = folder / name
        if picture.is_file() and picture.stat().st_size <= MAX_PICTURE:
            files[name] = picture.read_bytes()
    return files


def _is_same(info: Any, data: bytes) -> bool:
    """Whether a file on the hub has this content: large files are known by their sha256, others by git's name for them."""
    if info.lfs is not None:
        return bool(info.lfs.sha256 == hashlib.sha256(data).hexdigest())
    return bool(info.blob_id == hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest())


def _bytes(path: Path, limit: int, where: str) -> bytes:
    try:
        stream, size = container.open_bounded(path, limit)
    except LearngeneError as error:
        raise LearngeneError(f"{where}: {error}") from None
    with stream:
        return stream.read(size)


def _bar(limit: int, where: str) -> type:
    """The library's progress bar, which also stops a download that brings more than it announced."""
    from huggingface_hub.utils import tqdm  # type: ignore[attr-defined, unused-ignore]  # documented, not declared

    class Bar(tqdm):
        received = 0

        def update(self, n: float | None = 1) -> bool | None:
            self.received += int(n or 0)
            if self.received > limit:
                raise LearngeneError(
                    f"{where}: {FILE} is longer than the hub said, more than the limit of {limit} bytes"
                )
            return super().update(n)

    return Bar


def _cached(api: Any, repo_id: str, revision: str | None) -> Path | None:
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(api.hf_hub_download(repo_id, FILE, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError:
        return None


def _status(error: Exception) -> int | None:
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def _was_answered(error: Exception) -> bool:
    """Whether the hub said no; then a copy in the cache must not hide it. Nothing of this kind: not reached, or in trouble."""
    status = _status(error)
    return isinstance(error, ValueError) or (status is not None and 400 <= status < 500 and status != 429)


@contextmanager
def _refusing(where: str) -> Iterator[None]:
    """Turn whatever the library raises into an error of gtl that names the repository and the remedy."""
    try:
        yield
    except GtlError:
        raise
    except Exception as error:  # its own errors, its HTTP library's and the system's have no base in common
        raise _refusal(error, where) from error


def _refusal(error: Exception, where: str) -> GtlError:
    from huggingface_hub import errors

    status, reason = _status(error), str(error).strip().partition("\n")[0][:300] or type(error).__name__
    if isinstance(error, OSError) and error.errno in _DISK:
        return StorageError(f"{where} cannot be kept in the hub library's cache: {error}. Set HF_HUB_CACHE to another")
    if isinstance(error, errors.OfflineModeIsEnabled):
        return HubError(f"{where} is not in the cache, and HF_HUB_OFFLINE forbids to ask the hub; unset it once")
    if isinstance(error, errors.GatedRepoError):
        return HubError(f"{where} is gated: ask for access on its page, then log in with: hf auth login")
    if isinstance(error, errors.RepositoryNotFoundError):
        return HubError(
            f"{where}: there is no such repository, or it is private and you are not logged in as one who may see it "
            "(hf auth login, or HF_TOKEN)"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return HubError(f"{where}: the repository has no such branch, tag or commit")
    if isinstance(error, errors.EntryNotFoundError) and status is not None:
        return HubError(f"{where}: the repository has no {FILE}, so it holds no learngene")
    if status == 401:
        return HubError(f"{where}: the hub does not accept your token; log in with: hf auth login, or set HF_TOKEN")
    if status == 403:
        return HubError(f"{where}: your token may not do that; give one that may write (hf auth login, or HF_TOKEN)")
    return HubError(f"{where}: {reason}. Check the connection and HF_ENDPOINT, and try again")
