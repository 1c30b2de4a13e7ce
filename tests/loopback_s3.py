"""An object store on this machine: moto's, made to keep the promise of S3 that writers rest on.

moto looks whether an object is there and puts it afterwards, so that two conditional puts at once can both succeed
(``test_lance_writers.py`` shows that this one lets one succeed). Requests that carry a condition come in one by one here.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from typing import Any

import boto3
from botocore.client import BaseClient
from botocore.config import Config
from moto.server import DomainDispatcherApplication, create_backend_app  # type: ignore[attr-defined]
from werkzeug.serving import make_server

KEYS = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}


class LoopbackS3:
    """The server, started with ``with``; it has one bucket, ``states``.

    Attributes:
        url: Where it answers.
        conditional: Keys that were put under the condition that nothing lies there.
    """

    def __init__(self) -> None:
        self._application = DomainDispatcherApplication(create_backend_app)
        self._one = threading.Lock()
        self.conditional: list[str] = []
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def _answer(self, environ: dict[str, Any], start_response: Callable) -> Iterable[bytes]:
        if environ.get("HTTP_IF_NONE_MATCH") != "*":
            return self._application(environ, start_response)
        with self._one:
            self.conditional.append(environ["PATH_INFO"])
            return list(self._application(environ, start_response))

    def __enter__(self) -> LoopbackS3:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.client().create_bucket(Bucket="states")
        return self

    def __exit__(self, *exception: object) -> None:
        client = self.client()
        for page in client.get_paginator("list_objects_v2").paginate(Bucket="states"):
            for item in page.get("Contents", ()):
                client.delete_object(Bucket="states", Key=item["Key"])
        client.delete_bucket(Bucket="states")  # moto's objects are the process's, not the server's
        self._server.shutdown()
        self._server.server_close()

    def client(self) -> BaseClient:
        """A bare client, which does not try again."""
        config = Config(max_pool_connections=32, retries={"max_attempts": 0}, proxies={})
        return boto3.client("s3", endpoint_url=self.url, region_name="us-east-1", config=config, **KEYS)

    def options(self) -> dict[str, str]:
        """``storage_options`` that lead here."""
        return {**KEYS, "aws_endpoint": self.url, "aws_region": "us-east-1", "allow_http": "true"}
