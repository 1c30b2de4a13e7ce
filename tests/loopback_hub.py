"""A Hub on this machine, of the standard library: what huggingface_hub, transformers and sentence-transformers ask of one.

Clients reach it with ``HF_ENDPOINT``, which they read when they are imported: a test starts them as fresh processes.
By hand: ``python -m tests.loopback_hub`` serves one until it is interrupted.
"""

from __future__ import annotations

import json
import re
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote, urlsplit

from tests.loopback_repositories import WRITER, HubError, Repositories, Repository
from tests.loopback_routes import ROUTES


class LoopbackHub:
    """The server, started with ``with``.

    Attributes:
        repositories: What it holds; a test may look and change.
        requests: ``METHOD path`` of each request, in order.
        breaks_after: Path of a file -> bytes after which its download breaks off, once.
        dies_after: Path of a file -> bytes after which the whole server is gone.
    """

    def __init__(self) -> None:
        self.state = Repositories()
        self.requests: list[str] = []
        self.breaks_after: dict[str, int] = {}
        self.dies_after: dict[str, int] = {}
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": self}))
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.is_dead = False

    def __enter__(self) -> LoopbackHub:
        self.thread = Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def __getitem__(self, full_name: str) -> Repository:
        return self.state.repositories[full_name]


class Handler(BaseHTTPRequestHandler):
    """One request: finds the route and writes its answer."""

    protocol_version = "HTTP/1.1"
    hub: LoopbackHub

    def answer(self) -> None:
        path = urlsplit(self.path).path
        self.hub.requests.append(f"{self.command} {path}")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.hub.is_dead:
            self.close_connection = True
            return
        try:
            for method, pattern, route in ROUTES:
                match = re.fullmatch(pattern, path)
                if match and method == ("GET" if self.command == "HEAD" else self.command):
                    status, headers, content = route(self, body, *(unquote(group or "") for group in match.groups()))
                    break
            else:
                raise HubError(404, None, f"the loopback Hub has no {self.command} {path}")
        except HubError as error:
            status, content = error.status, json.dumps({"error": str(error)}).encode()
            headers = {"X-Error-Message": str(error)} | ({"X-Error-Code": error.code} if error.code else {})
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.send_content(path, content)

    do_GET = do_HEAD = do_POST = do_PUT = answer

    def send_content(self, path: str, content: bytes) -> None:
        name = self.headers.get("X-File") or path.rsplit("/", 1)[-1]
        for broken, kills in ((self.hub.breaks_after, False), (self.hub.dies_after, True)):
            limit = broken.pop(name, None)
            if limit is not None:
                self.wfile.write(content[:limit])
                self.wfile.flush()
                self.close_connection = True
                self.hub.is_dead = kills
                return
        self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        """Silent."""

    @property
    def token(self) -> str | None:
        return self.headers.get("Authorization", "").removeprefix("Bearer ") or None

    def find(self, full_name: str, revision: str, *, for_files: bool = False) -> tuple[Repository, str]:
        repository = self.hub.state.find(self.token, full_name, for_files=for_files)
        return repository, repository.resolve(revision)


if __name__ == "__main__":
    with LoopbackHub() as started:
        sys.stdout.write(f"export HF_ENDPOINT={started.url} HF_TOKEN={WRITER} HF_HUB_DISABLE_XET=1\n")
        sys.stdout.flush()
        started.thread.join()
