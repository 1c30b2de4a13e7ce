"""What the loopback Hub knows, in memory: repositories, their commits, and who may do what. No HTTP here."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass, field

# Token -> the namespaces that it may write to. They are words of these tests, not secrets.
WRITER, READER = "token-that-may-write", "token-that-may-read"
NAMESPACES = {WRITER: {"writer", "org"}, READER: {"reader"}}

LFS_SUFFIXES = (".safetensors", ".png")


class HubError(Exception):
    """An answer that is not 200; ``code`` is what the Hub calls ``X-Error-Code``."""

    def __init__(self, status: int, code: str | None, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


@dataclass(frozen=True)
class File:
    """One file of one commit."""

    content: bytes
    is_lfs: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def oid(self) -> str:
        """Git's name of the blob; of a large file, that of its pointer."""
        data = self.content
        if self.is_lfs:
            pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(data)}\n"
            data = pointer.encode()
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.is_lfs else self.oid

    @property
    def remote_oid(self) -> str:
        """What a client compares its own file with, to leave out what has not changed."""
        return self.sha256 if self.is_lfs else self.oid


@dataclass
class Repository:
    """Branches and tags name commits; a commit is a dictionary of files."""

    name: str
    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, File]] = field(default_factory=dict)
    messages: dict[str, str] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.commit("main", {".gitattributes": File(b"*.safetensors filter=lfs\n", False)}, "initial commit")

    def commit(self, branch: str, files: dict[str, File], message: str) -> str:
        """Make ``files`` the new state of a branch."""
        parent = self.branches.get(branch, "")
        listed = sorted((path, file.etag) for path, file in files.items())
        oid = hashlib.sha1(json.dumps([parent, message, listed]).encode()).hexdigest()
        self.commits[oid] = files
        self.messages[oid] = message
        self.branches[branch] = oid
        return oid

    def resolve(self, revision: str) -> str:
        """Commit of a branch, a tag or a commit's own name."""
        for names in (self.branches, self.tags):
            if revision in names:
                return names[revision]
        if revision in self.commits:
            return revision
        raise HubError(404, "RevisionNotFound", f"Invalid rev id: {revision}")

    def change(self, branch: str, changes: dict[str, bytes | None], message: str = "changed by somebody else") -> str:
        """A commit made behind the client's back; None deletes the file."""
        files = dict(self.commits[self.branches[branch]])
        for path, content in changes.items():
            if content is None:
                del files[path]
            else:
                files[path] = File(content, path.endswith(LFS_SUFFIXES))
        return self.commit(branch, files, message)


@dataclass
class Repositories:
    """All repositories, and what was uploaded for a commit to come."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    uploads: dict[str, bytes] = field(default_factory=dict)
    collections: dict[str, list[str]] = field(default_factory=dict)

    def create(self, token: str | None, namespace: str, name: str, private: bool) -> Repository:
        full_name = f"{namespace}/{name}"
        self.check_write(token, full_name)
        if full_name in self.repositories:
            raise HubError(409, None, "You already created this model repo")
        self.repositories[full_name] = Repository(full_name, private)
        return self.repositories[full_name]

    def find(self, token: str | None, full_name: str, *, for_files: bool = False) -> Repository:
        """The repository, if this token may see it (with ``for_files``: read what lies in it)."""
        repository = self.repositories.get(full_name)
        is_theirs = full_name.split("/")[0] in NAMESPACES.get(token or "", set())
        if repository is None or (repository.private and not is_theirs):
            if token is None:  # the Hub does not say whether there is something to see
                raise HubError(401, "RepoNotFound", "Invalid username or password.")
            raise HubError(404, "RepoNotFound", "Repository not found")
        if for_files and repository.gated and not is_theirs:
            message = f"Access to model {full_name} is restricted. You must have access to it and be authenticated"
            raise HubError(401 if token is None else 403, "GatedRepo", message)
        return repository

    def check_write(self, token: str | None, full_name: str) -> None:
        if token not in NAMESPACES:
            raise HubError(401, None, "Invalid credentials in Authorization header")
        if full_name.split("/")[0] not in NAMESPACES[token]:
            message = f"You don't have the rights to create a model under the namespace of {full_name}"
            raise HubError(403, None, message)

    def apply(self, token: str | None, full_name: str, branch: str, lines: list[dict]) -> str:
        """One commit from the lines that ``create_commit`` sends; all of it or nothing."""
        repository = self.find(token, full_name)
        self.check_write(token, full_name)
        if branch not in repository.branches:
            raise HubError(404, "RevisionNotFound", f"Invalid rev id: {branch}")
        header, *operations = ((line["key"], line["value"]) for line in lines)
        parent = header[1].get("parentCommit")
        if parent is not None and parent != repository.branches[branch]:
            raise HubError(412, None, "A commit has happened since. Please refresh and try again.")
        files = dict(repository.commits[repository.branches[branch]])
        for key, value in operations:
            path = value["path"]
            if key == "file":
                files[path] = File(decode(value), False)
            elif key == "lfsFile":
                if value["oid"] not in self.uploads:
                    raise HubError(400, None, f"{path}: its content was never uploaded")
                files[path] = File(self.uploads[value["oid"]], True)
            elif key == "deletedFile":
                if files.pop(path, None) is None:
                    raise HubError(404, "EntryNotFound", f"A file with this name doesn't exist: {path}")
            else:
                raise HubError(400, None, f"unknown operation {key}")
        return repository.commit(branch, files, header[1]["summary"])


def decode(value: dict) -> bytes:
    """Content of a regular file in a commit."""
    return base64.b64decode(value["content"])
