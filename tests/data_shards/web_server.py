"""A web server on loopback that knows ranges, counts what it is asked for, and misbehaves when it is told to."""

import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class WebServer(ThreadingHTTPServer):
    """Serves a folder. `faults` maps a file name to what happens at its next requests, one word each.

    Words: reset (the connection breaks after half of the body), 500, 403, cut (a shorter body than announced), wrong
    (other bytes of the same number), shifted (another range than asked for).
    """

    daemon_threads = True

    def __init__(self, folder: Path, ranges: bool = True):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder, self.ranges = folder, ranges
        self.faults: dict[str, list[str]] = {}
        self.requests: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()
        self.first_bytes: list[tuple[str, int]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of connections that broke."""


@contextmanager
def serving(folder: Path, ranges: bool = True) -> Iterator[WebServer]:
    """Run a server in a thread of this process."""
    server = WebServer(folder, ranges)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: WebServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, with_body: bool) -> None:
        name = self.path.rpartition("/")[2]
        file = self.server.folder / self.path.lstrip("/")
        if with_body:
            self.server.requests[name] += 1
        faults = self.server.faults.get(name, [])
        fault = faults.pop(0) if faults and with_body else ""
        if fault.isdigit() or not file.is_file():
            self.send_error(int(fault or 404))
            return
        data, first = file.read_bytes(), 0
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked and self.server.ranges:
            first, last = int(asked[1]), min(int(asked[2] or len(data)), len(data) - 1)
            if first > last:
                self.send_error(416)
                return
            self.send_response(206)
            shown = first + 1 if fault == "shifted" else first
            self.send_header("Content-Range", f"bytes {shown}-{last}/{len(data)}")
            data = data[first : last + 1]
        else:
            self.send_response(200)
            self.send_header("Accept-Ranges", "bytes" if self.server.ranges else "none")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if with_body:
            self.server.first_bytes.append((name, first))
            self._send(name, data, fault)

    def _send(self, name: str, data: bytes, fault: str) -> None:
        if fault == "wrong":
            data = bytes(byte ^ 1 for byte in data)
        if fault in ("reset", "cut"):
            data = data[: len(data) // 2]
        self.wfile.write(data)
        self.server.sent[name] += len(data)
        if fault in ("reset", "cut"):
            self.wfile.flush()
            time.sleep(0.2)  # what the client has not read when it hears of the end is lost
        if fault == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        if fault in ("reset", "cut"):
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
