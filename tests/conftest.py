"""What all tests share: one thread, and a real object store over HTTP, on loopback, that fails when it is told to."""

import logging
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

import pytest
import torch
from moto.server import DomainDispatcherApplication, create_backend_app
from pyarrow import fs
from werkzeug.serving import make_server

ACCESS_KEY, SECRET_KEY = "AKIAWHOREADSTHIS", "nobody-is-to-read-this"
Fault = Callable[[str, str], str | None]
"""What happens to a request of that method and path: None, or one of `slow`, `lost` (done, and then no good answer),
`500`, `503` and `403` (not done)."""
_ANSWERS = {
    "500": ("500 Internal Server Error", "InternalError"),
    "503": ("503 Slow Down", "SlowDown"),
    "403": ("403 Forbidden", "AccessDenied"),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole searches first: they wait for Ray more than they compute, and none of them is to be the last one."""
    items.sort(key=lambda item: "search" not in item.path.parts)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Bits are compared: workers have one thread each, and so has a test, however pytest was called."""
    torch.set_num_threads(1)


class ObjectStore:
    """One bucket on a server of its own."""

    def __init__(self, bucket: str) -> None:
        self.bucket = bucket
        self.hurt: dict[str, int] = {}
        self._fault: Fault | None = None
        self._app = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.filesystem = fs.S3FileSystem(
            access_key=ACCESS_KEY,
            secret_key=SECRET_KEY,
            region="us-east-1",
            scheme="http",
            endpoint_override=f"127.0.0.1:{self._server.server_port}",
            allow_bucket_creation=True,
        )
        self.filesystem.create_dir(bucket)

    def uri(self, path: str, credentials: str = "") -> str:
        endpoint = quote(f"127.0.0.1:{self._server.server_port}", safe="")
        at = f"{credentials}@" if credentials else ""
        return f"s3://{at}{self.bucket}/{path}?scheme=http&endpoint_override={endpoint}&region=us-east-1"

    @contextmanager
    def faults(self, fault: Fault) -> Iterator[None]:
        self._fault = fault
        try:
            yield
        finally:
            self._fault = None

    def content(self) -> dict[str, bytes]:
        """Every object there is."""
        return {path: self.filesystem.open_input_file(path).readall() for path in self.paths()}

    def paths(self) -> list[str]:
        """Of every object."""
        files = self.filesystem.get_file_info(fs.FileSelector(self.bucket, recursive=True))
        return [info.path for info in files if info.is_file]

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _answer(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        kind = self._fault(method, path) if self._fault else None
        if kind is None:
            return self._app(environ, start)
        self.hurt[kind] = self.hurt.get(kind, 0) + 1
        if kind == "slow":
            time.sleep(3.5)
            return self._app(environ, start)
        if kind == "lost":
            list(self._app(environ, lambda *answer: None))
            kind = "500"
        status, code = _ANSWERS[kind]
        start(status, [("Content-Type", "application/xml")])
        return [] if method == "HEAD" else [f"<Error><Code>{code}</Code><Message>injected</Message></Error>".encode()]


def some(share: float, kinds: tuple[str, ...], seed: int) -> Fault:
    """Faults at random."""
    draw = random.Random(seed)
    return lambda method, path: draw.choice(kinds) if draw.random() < share else None


@pytest.fixture
def object_store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    """With credentials in the environment, as users have them."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    store = ObjectStore(f"bucket-{abs(hash(request.node.nodeid)):x}")
    yield store
    store.close()
