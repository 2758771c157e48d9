"""A proxy in front of an S3 server that fails a share of the requests, as networks and busy stores do."""

import random
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

KINDS = ("busy", "cut_before", "cut_after")  # 503; cut before the request is sent on; cut in the middle of the answer
ERROR = "<?xml version='1.0'?><Error><Code>{code}</Code><Message>as the test wants it</Message></Error>"


@dataclass
class Faults:
    """What goes wrong, and what was seen. `choose(method, path)` says which request fails, and how."""

    backend: str
    share: float = 0.2
    seed: int = 0
    choose: Callable[[str, str], str | None] | None = None
    requests: list[tuple[str, str]] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.lock = threading.Lock()

    def next(self, method: str, path: str) -> str | None:
        """How this request fails: one of KINDS, or "<status> <code>" as the store's answer; None if it does not."""
        with self.lock:
            self.requests.append((method, path))
            if self.choose:
                fault = self.choose(method, path)
            else:
                fault = self.random.choice(KINDS) if self.random.random() < self.share else None
            self.failed += [fault] if fault else []
            return fault

    def count(self, method: str, part: str = "") -> int:
        """How many requests there were with this method, and `part` in their path."""
        return sum(seen == method and part in path for seen, path in self.requests)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    faults: Faults

    def _handle(self) -> None:
        body = self._body()
        fault = self.faults.next(self.command, self.path)
        if fault == "cut_before":
            self._cut()
        elif fault and fault != "cut_after":
            status, code = (503, "SlowDown") if fault == "busy" else (int(fault.split()[0]), fault.split()[1])
            self._answer(status, {}, b"" if self.command == "HEAD" else ERROR.format(code=code).encode())
        else:
            self._forward(body, is_cut=fault == "cut_after")

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _handle

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _forward(self, body: bytes, is_cut: bool) -> None:
        connection = HTTPConnection(urlsplit(self.faults.backend).netloc)
        dropped = ("transfer-encoding", "content-length", "expect", "connection")
        headers = {name: value for name, value in self.headers.items() if name.lower() not in dropped}
        connection.request(self.command, self.path, body=body, headers={**headers, "Content-Length": str(len(body))})
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        kept = {name: value for name, value in answer.getheaders() if name.lower() not in dropped[:1]}
        self._answer(answer.status, kept, content, is_cut=is_cut)

    def _answer(self, status: int, headers: dict[str, str], content: bytes, is_cut: bool = False) -> None:
        if is_cut and len(content) < 2:  # nothing of the answer but its head: that does not arrive
            self._cut()
            return
        headers = {name: value for name, value in headers.items() if name.lower() not in ("date", "server")}
        headers.setdefault("Content-Length", str(len(content)))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if is_cut else content)
        if is_cut:
            self._cut()

    def _cut(self) -> None:
        self.wfile.flush()
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def proxy(faults: Faults) -> Iterator[str]:
    """The address of a proxy to the server at `faults.backend`."""
    handler = type("Handler", (_Handler,), {"faults": faults})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
