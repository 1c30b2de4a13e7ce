"""What each route of the loopback Hub answers, in the words of the Hub's own API."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from tests.loopback_repositories import LFS_SUFFIXES, File, HubError

if TYPE_CHECKING:
    from tests.loopback_hub import Handler

Answer = tuple[int, dict[str, str], bytes]


def as_json(value: Any, status: int = 200) -> Answer:
    return status, {}, json.dumps(value).encode()


def create(request: Handler, body: bytes) -> Answer:
    wanted = json.loads(body)
    name, private = wanted["name"], wanted.get("visibility") == "private"
    try:
        repository = request.hub.state.create(request.token, wanted["organization"], name, private)
    except HubError as error:
        if error.status != 409:
            raise
        return as_json({"url": f"{request.hub.url}/{wanted['organization']}/{name}", "error": str(error)}, 409)
    return as_json({"url": f"{request.hub.url}/{repository.name}"})


def preupload(request: Handler, body: bytes, full_name: str, revision: str) -> Answer:
    repository, commit = request.find(full_name, revision)
    request.hub.state.check_write(request.token, full_name)
    there = repository.commits[commit]
    files = [
        {
            "path": file["path"],
            "uploadMode": "lfs" if file["path"].endswith(LFS_SUFFIXES) else "regular",
            "shouldIgnore": False,
            "oid": there[file["path"]].remote_oid if file["path"] in there else None,
        }
        for file in json.loads(body)["files"]
    ]
    return as_json({"files": files})


def lfs_batch(request: Handler, body: bytes, full_name: str) -> Answer:
    request.hub.state.check_write(request.token, full_name)
    objects = []
    for wanted in json.loads(body)["objects"]:
        if wanted["oid"] in request.hub.state.uploads:
            objects.append(wanted)
            continue
        actions = {kind: {"href": f"{request.hub.url}/lfs-{kind}/{wanted['oid']}"} for kind in ("upload", "verify")}
        objects.append({**wanted, "actions": actions})
    return as_json({"transfer": "basic", "objects": objects})


def lfs_upload(request: Handler, body: bytes, oid: str) -> Answer:
    if File(body, True).sha256 != oid:
        raise HubError(400, None, f"the content of {oid} has another hash")
    request.hub.state.uploads[oid] = body
    return as_json({})


def lfs_verify(request: Handler, body: bytes, oid: str) -> Answer:
    if oid not in request.hub.state.uploads:
        raise HubError(404, None, f"{oid} was never uploaded")
    return as_json({})


def commit(request: Handler, body: bytes, full_name: str, branch: str) -> Answer:
    lines = [json.loads(line) for line in body.splitlines()]
    oid = request.hub.state.apply(request.token, full_name, branch, lines)
    return as_json({"commitUrl": f"{request.hub.url}/{full_name}/commit/{oid}", "commitOid": oid})


def name_commit(kind: str) -> Callable[..., Answer]:
    """Routes that make a branch or a tag."""

    def make(request: Handler, body: bytes, full_name: str, given: str) -> Answer:
        wanted = json.loads(body)
        repository = request.hub.state.find(request.token, full_name)
        request.hub.state.check_write(request.token, full_name)
        name = given if kind == "branches" else wanted["tag"]
        start = wanted.get("startingPoint", "main") if kind == "branches" else given
        if name in getattr(repository, kind):
            raise HubError(409, None, f"{name} already exists")
        getattr(repository, kind)[name] = repository.resolve(start)
        return as_json({})

    return make


def refs(request: Handler, body: bytes, full_name: str) -> Answer:
    repository = request.hub.state.find(request.token, full_name)
    listed = {
        kind: [{"name": name, "ref": f"refs/{ref}/{name}", "targetCommit": oid} for name, oid in names.items()]
        for kind, ref, names in (("branches", "heads", repository.branches), ("tags", "tags", repository.tags))
    }
    return as_json({**listed, "converts": []})


def info(request: Handler, body: bytes, full_name: str, revision: str = "main") -> Answer:
    repository, oid = request.find(full_name, revision)
    siblings = [{"rfilename": path} for path in repository.commits[oid]]
    fields = {"id": full_name, "sha": oid, "private": repository.private, "gated": repository.gated}
    return as_json({**fields, "siblings": siblings, "tags": [], "downloads": 0})


def tree(request: Handler, body: bytes, full_name: str, revision: str, folder: str = "") -> Answer:
    repository, oid = request.find(full_name, revision)
    prefix = f"{folder.strip('/')}/" if folder.strip("/") else ""
    is_recursive = "true" in [value.lower() for value in parse_qs(urlsplit(request.path).query).get("recursive", [])]
    entries: dict[str, dict[str, Any]] = {}
    for path, file in repository.commits[oid].items():
        if not path.startswith(prefix):
            continue
        head, _, rest = path[len(prefix) :].partition("/")
        if rest:
            entries.setdefault(prefix + head, {"type": "directory", "oid": "0" * 40, "size": 0, "path": prefix + head})
        if not rest or is_recursive:
            lfs = {"lfs": {"oid": file.sha256, "size": len(file.content), "pointerSize": 130}} if file.is_lfs else {}
            entries[path] = {"type": "file", "oid": file.oid, "size": len(file.content), "path": path, **lfs}
    if prefix and not entries:
        raise HubError(404, "EntryNotFound", f"{folder} does not exist on {revision}")
    return as_json(list(entries.values()))


def resolve(request: Handler, body: bytes, full_name: str, revision: str, path: str) -> Answer:
    repository, oid = request.find(full_name, revision, for_files=True)
    headers = {"X-Repo-Commit": oid, "Content-Type": "application/octet-stream"}
    file = repository.commits[oid].get(path)
    if file is None:
        missing = {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}
        return 404, headers | missing, b""
    headers |= {"ETag": f'"{file.etag}"', "Accept-Ranges": "bytes"}
    if file.is_lfs:  # as on the Hub, the content of a large file lies on another host
        linked = {"X-Linked-ETag": f'"{file.etag}"', "X-Linked-Size": str(len(file.content))}
        request.hub.state.uploads[file.sha256] = file.content
        location = f"{request.hub.url.replace('127.0.0.1', 'localhost')}/lfs-content/{file.sha256}/{path}"
        return 302, headers | linked | {"Location": location}, b""
    return ranged(request, file.content, headers)


def lfs_content(request: Handler, body: bytes, oid: str, path: str) -> Answer:
    return ranged(request, request.hub.state.uploads[oid], {"ETag": f'"{oid}"', "Accept-Ranges": "bytes"})


def ranged(request: Handler, content: bytes, headers: dict[str, str]) -> Answer:
    match = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
    if match is None:
        return 200, headers, content
    start, stop = int(match[1]), min(int(match[2] or len(content) - 1), len(content) - 1)
    return 206, headers | {"Content-Range": f"bytes {start}-{stop}/{len(content)}"}, content[start : stop + 1]


def add_to_collection(request: Handler, body: bytes, slug: str) -> Answer:
    if slug not in request.hub.state.collections:
        raise HubError(404, None, f"there is no collection {slug}")
    request.hub.state.check_write(request.token, slug)
    request.hub.state.collections[slug].append(json.loads(body)["item"]["id"])
    fields = {"slug": slug, "title": slug, "owner": {}, "items": [], "lastUpdated": "2026-01-01T00:00:00.000Z"}
    return as_json({**fields, "position": 0, "private": False, "theme": "blue", "upvotes": 0})


NAME = r"([\w.-]+/[\w.-]+)"
ROUTES: list[tuple[str, str, Callable[..., Answer]]] = [
    ("POST", "/api/repos/create", create),
    ("POST", "/api/validate-yaml", lambda request, body: as_json({"errors": [], "warnings": []})),
    ("POST", f"/api/models/{NAME}/preupload/([^/]+)", preupload),
    ("POST", f"/{NAME}.git/info/lfs/objects/batch", lfs_batch),
    ("PUT", r"/lfs-upload/(\w+)", lfs_upload),
    ("POST", r"/lfs-verify/(\w+)", lfs_verify),
    ("POST", f"/api/models/{NAME}/commit/([^/]+)", commit),
    ("POST", f"/api/models/{NAME}/branch/([^/]+)", name_commit("branches")),
    ("POST", f"/api/models/{NAME}/tag/([^/]+)", name_commit("tags")),
    ("POST", f"/api/collections/{NAME}/items", add_to_collection),
    ("GET", f"/api/models/{NAME}/refs", refs),
    ("GET", f"/api/models/{NAME}", info),
    ("GET", f"/api/models/{NAME}/revision/([^/]+)", info),
    ("GET", f"/api/models/{NAME}/tree/([^/]+)(/.*)?", tree),
    ("GET", f"/{NAME}/resolve/([^/]+)/(.+)", resolve),
    ("GET", r"/lfs-content/(\w+)/(.+)", lfs_content),
]
