"""A Hugging Face hub on loopback: as much of it as downloading a repository takes."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """The repositories' files, what was asked for, and which connection shall break."""

    folder: Path
    break_once: str = ""  # the next download of this file stops half-way
    url: str = ""
    asked: list[tuple[str, str, str]] = field(default_factory=list)  # method, path, range


@contextmanager
def serve(folder: Path) -> Iterator[Hub]:
    """Serve the files of a folder as any repository that is asked for."""
    hub = Hub(folder)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append((self.command, path, self.headers.get("Range", "")))
        if path.startswith("/api/models/"):
            body = json.dumps(self._tree() if "/tree/" in path else self._info()).encode()
            self._send(200, {"Content-Type": "application/json", "Content-Length": len(body)}, body)
        elif "/resolve/" in path and (file := self.hub.folder / path.split("/", 5)[5]).is_file():
            self._file(file, with_body=with_body)
        else:
            self._send(404, {"Content-Length": 0}, b"")

    def _files(self) -> list[Path]:
        return sorted(path for path in self.hub.folder.rglob("*") if path.is_file())

    def _info(self) -> dict:
        siblings = [
            {"rfilename": path.relative_to(self.hub.folder).as_posix(), "size": path.stat().st_size}
            for path in self._files()
        ]
        return {"id": "any/model", "sha": COMMIT, "siblings": siblings}

    def _tree(self) -> list[dict]:
        return [
            {
                "type": "file",
                "path": path.relative_to(self.hub.folder).as_posix(),
                "size": path.stat().st_size,
                "oid": "0",
            }
            for path in self._files()
        ]

    def _file(self, path: Path, *, with_body: bool) -> None:
        content = path.read_bytes()
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
        headers = {
            "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "X-Repo-Commit": COMMIT,
            "Accept-Ranges": "bytes",
            "Content-Length": len(content) - start,
        }
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        body = content[start:] if with_body else b""
        if with_body and self.hub.break_once and path.match(self.hub.break_once):
            self.hub.break_once = ""
            body = body[: len(body) // 2]
            self.close_connection = True
        self._send(206 if start else 200, headers, body)

    def _send(self, status: int, headers: dict, body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)
