"""A real HTTP server for tests of downloads, with the habits that servers have."""

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_BLOCK = 1 << 14


@dataclass
class Served:
    """What a server does and what it was asked.

    Attributes:
        files: content by path (``/a.tar.gz``).
        with_ranges: whether it heeds Range headers.
        cut_after: bytes after which it closes the connection, once each; then it behaves.
        trouble: status codes that it answers with, once each, before it behaves.
        pause: seconds between blocks of 16 KiB.
        asked: the Range header of every request, None where there was none.
        url: its address.
    """

    files: dict[str, bytes]
    with_ranges: bool = True
    cut_after: list[int] = field(default_factory=list)
    trouble: list[int] = field(default_factory=list)
    pause: float = 0.0
    asked: list[str | None] = field(default_factory=list)
    url: str = ""


@contextmanager
def serve(served: Served) -> Iterator[Served]:
    """Run a server while the block runs."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            _answer(self, served)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    served.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _answer(handler: BaseHTTPRequestHandler, served: Served) -> None:
    asked = handler.headers.get("Range")
    served.asked.append(asked)
    if served.trouble:
        handler.send_error(served.trouble.pop(0))
        return
    if handler.path not in served.files:
        handler.send_error(404)
        return
    content = served.files[handler.path]
    size, start, end = len(content), 0, len(content)
    if asked and served.with_ranges:
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", asked)
        start = int(match[1]) if match else size
        end = min(int(match[2]) + 1, size) if match and match[2] else size
        if start >= size:
            handler.send_error(416)
            return
        handler.send_response(206)
        handler.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
    else:
        handler.send_response(200)
    handler.send_header("Content-Length", str(end - start))
    handler.end_headers()
    rest = content[start:end]
    if served.cut_after:
        rest = rest[: served.cut_after.pop(0)]
    try:
        for place in range(0, len(rest), _BLOCK):
            handler.wfile.write(rest[place : place + _BLOCK])
            time.sleep(served.pause)
    except ConnectionError:
        pass  # the client was killed, which is what its test is about
