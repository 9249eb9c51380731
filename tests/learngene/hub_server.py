"""A model hub's HTTP interface on this machine: repositories with branches, commits, tokens and large files.

What huggingface_hub calls to find, fetch, make and commit, as it calls it. `trouble` makes it misbehave.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

TOKEN = "hf_right"
ENDLESS = 256 << 20
LARGE = (".safetensors", ".png")  # what goes by LFS


def git_name(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass
class Repository:
    private: bool = False
    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)

    def commit(self, branch: str, files: dict[str, bytes]) -> str:
        tree = {**self.commits.get(self.branches.get(branch, ""), {}), **files}
        name = hashlib.sha1(f"{len(self.commits)} {branch}".encode()).hexdigest()
        self.commits[name] = tree
        self.branches[branch] = name
        return name

    def resolve(self, revision: str) -> str | None:
        return self.branches.get(revision, revision if revision in self.commits else None)


class RefusedError(Exception):
    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        self.status, self.headers = status, {"X-Error-Code": code, "X-Error-Message": message or code}


class Hub(ThreadingHTTPServer):
    """The server and what it holds.

    Attributes:
        requests: method and path of everything that was asked.
        sent: bytes of file content that were sent.
        trouble: "cut" breaks every download off, "cut once" the first; "endless" sends more than it announces, up to
            ENDLESS; "moving" commits after every look at a file; "busy" answers 503; ("size", n) announces so many bytes.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.repositories: dict[str, Repository] = {}
        self.uploads: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.sent = 0
        self.trouble: Any = None

    def repository(self, name: str, private: bool = False, **files: bytes) -> Repository:
        """Make a repository; names of files are given with _ for the point."""
        found = self.repositories[name] = Repository(private)
        found.commit("main", {".gitattributes": b"", **{key.replace("__", "."): data for key, data in files.items()}})
        return found


@contextmanager
def serving() -> Iterator[Hub]:
    with Hub() as hub:
        thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer()

    def do_PUT(self) -> None:
        self.answer()

    def answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append(f"{self.command} {path}")
        try:
            if self.server.trouble == "busy":
                raise RefusedError(503)
            token = self.headers.get("Authorization", "").removeprefix("Bearer ")
            if token and token != TOKEN and not path.startswith("/lfs/"):
                raise RefusedError(401, message="Invalid credentials in Authorization header")
            self.logged_in = token == TOKEN
            for method, pattern, action in ROUTES:
                match = re.fullmatch(pattern, path)
                if match and self.command in method:
                    action(self, body, *match.groups())
                    return
            raise RefusedError(404)
        except RefusedError as refused:
            self.send(refused.status, json.dumps({"error": "refused"}).encode(), **refused.headers)

    def send(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            if value:
                self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_json(self, value: Any, status: int = 200) -> None:
        self.send(status, json.dumps(value).encode(), Content_Type="application/json")

    def repository(self, name: str, *, writing: bool = False) -> Repository:
        found = self.server.repositories.get(name)
        if found is None or (found.private and not self.logged_in):
            raise RefusedError(404 if self.logged_in else 401, "RepoNotFound")
        if writing and (not self.logged_in or not name.startswith("me/")):
            raise RefusedError(403, message="you do not have the right")
        return found

    def tree(self, name: str, revision: str) -> tuple[str, dict[str, bytes]]:
        repository = self.repository(name)
        commit = repository.resolve(revision)
        if commit is None:
            raise RefusedError(404, "RevisionNotFound")
        return commit, repository.commits[commit]

    # ---- what can be asked -------------------------------------------------------------------------------------------

    def resolve(self, body: bytes, name: str, revision: str, file: str) -> None:
        commit, tree = self.tree(name, revision)
        if file not in tree:
            raise RefusedError(404, "EntryNotFound")
        data, trouble = tree[file], self.server.trouble
        if trouble == "moving":
            self.repository(name).commit(revision, {"notes.txt": str(len(self.server.requests)).encode()})
        etag = hashlib.sha256(data).hexdigest() if file.endswith(LARGE) else git_name(data)
        begin = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        self.send_response(206 if begin else 200)
        size = trouble[1] if isinstance(trouble, tuple) else len(data) - begin
        is_endless = trouble == "endless" and self.command == "GET"
        self.send_header(*("Transfer-Encoding", "chunked") if is_endless else ("Content-Length", str(size)))
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
        self.send_header("ETag", f'"{etag}"')
        self.send_header("X-Repo-Commit", commit)
        self.end_headers()
        if self.command == "HEAD":
            return
        if is_endless:
            self.send_endless()
            return
        cut = trouble in ("cut", "cut once")
        self.server.trouble = None if trouble == "cut once" else trouble
        part = data[begin : max(begin, len(data) // 2) if cut else None]
        self.server.sent += len(part)
        self.wfile.write(part)
        if cut:
            self.close_connection = True

    def send_endless(self) -> None:
        piece = bytes(1 << 20)
        self.close_connection = True
        with suppress(OSError):  # the other side hangs up
            while self.server.sent < ENDLESS:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                self.server.sent += len(piece)

    def info(self, body: bytes, name: str, revision: str | None = None) -> None:
        commit, tree = self.tree(name, revision or "main")
        private = self.repository(name).private
        files = [{"rfilename": file} for file in tree]
        self.send_json({"id": name, "modelId": name, "sha": commit, "private": private, "siblings": files, "tags": []})

    def create(self, body: bytes) -> None:
        asked = json.loads(body)
        name = f"{asked['organization']}/{asked['name']}"
        if not self.logged_in:
            raise RefusedError(401, message="Invalid username or password.")
        if name in self.server.repositories:
            self.send_json({"error": "it is there already", "url": f"{self.server.url}/{name}"}, 409)
            return
        if not name.startswith("me/"):
            raise RefusedError(403, message="you do not have the right")
        private = asked.get("private") or asked.get("visibility") == "private"
        self.server.repository(name, bool(private))
        self.send_json({"url": f"{self.server.url}/{name}", "name": name, "id": name})

    def branch(self, body: bytes, name: str, branch: str) -> None:
        repository = self.repository(name, writing=True)
        if branch in repository.branches:
            self.send_json({"error": "it is there already"}, 409)
            return
        repository.branches[branch] = repository.branches["main"]
        self.send_json({})

    def paths(self, body: bytes, name: str, revision: str) -> None:
        _, tree = self.tree(name, revision)
        found = []
        for file in parse_qs(body.decode())["paths"]:
            if file in tree:
                data = tree[file]
                entry: dict[str, Any] = {"type": "file", "path": file, "size": len(data), "oid": git_name(data)}
                if file.endswith(LARGE):
                    entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
                found.append(entry)
        self.send_json(found)

    def validate(self, body: bytes) -> None:
        content = json.loads(body)["content"]
        parts = content.split("---\n")
        try:
            front = yaml.safe_load(parts[1])
            assert isinstance(front, dict) and isinstance(front["license"], str)
        except (IndexError, KeyError, AssertionError, yaml.YAMLError) as error:
            self.send_json({"errors": [{"message": str(error)}], "warnings": []}, 400)
            return
        self.send_json({"errors": [], "warnings": []})

    def preupload(self, body: bytes, name: str, revision: str) -> None:
        self.repository(name, writing=True)
        files = [file["path"] for file in json.loads(body)["files"]]
        modes = {file: "lfs" if file.endswith(LARGE) else "regular" for file in files}
        self.send_json({"files": [{"path": f, "uploadMode": modes[f], "shouldIgnore": False} for f in files]})

    def batch(self, body: bytes, name: str) -> None:
        self.repository(name, writing=True)
        objects = [
            {**each, "actions": {"upload": {"href": f"{self.server.url}/lfs/{each['oid']}"}}}
            for each in json.loads(body)["objects"]
        ]
        self.send_json({"transfer": "basic", "objects": objects})

    def upload(self, body: bytes, name: str) -> None:
        if hashlib.sha256(body).hexdigest() != name:
            raise RefusedError(400, message="other bytes than were announced")
        self.server.uploads[name] = body
        self.send(200)

    def commit(self, body: bytes, name: str, revision: str) -> None:
        repository, files = self.repository(name, writing=True), {}
        for line in body.decode().splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                files[value["path"]] = self.server.uploads[value["oid"]]
        made = repository.commit(revision, files)
        self.send_json({"commitUrl": f"{self.server.url}/{name}/commit/{made}", "commitOid": made, "success": True})


NAME = r"([\w.-]+/[\w.-]+)"
ROUTES: tuple[tuple[tuple[str, ...], str, Callable[..., None]], ...] = (
    (("HEAD", "GET"), rf"/{NAME}/resolve/([^/]+)/(.+)", Handler.resolve),
    (("GET",), rf"/api/models/{NAME}", Handler.info),
    (("GET",), rf"/api/models/{NAME}/revision/([^/]+)", Handler.info),
    (("POST",), r"/api/repos/create", Handler.create),
    (("POST",), rf"/api/models/{NAME}/branch/([^/]+)", Handler.branch),
    (("POST",), rf"/api/models/{NAME}/paths-info/([^/]+)", Handler.paths),
    (("POST",), r"/api/validate-yaml", Handler.validate),
    (("POST",), rf"/api/models/{NAME}/preupload/([^/]+)", Handler.preupload),
    (("POST",), rf"/{NAME}\.git/info/lfs/objects/batch", Handler.batch),
    (("PUT",), r"/lfs/([0-9a-f]{64})", Handler.upload),
    (("POST",), rf"/api/models/{NAME}/commit/([^/]+)", Handler.commit),
)
