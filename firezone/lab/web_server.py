"""The lab's resource: a small web server. Runs by its path, as `web_server.py PORT...`

`/` is a page, `/bytes/N` gives N zero bytes. It answers on all addresses of its host.
"""

from __future__ import annotations

import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PAGE = b"<h1>Hello from behind the gateway</h1>\n"


class Handler(BaseHTTPRequestHandler):
    """Answers GET."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/":
            self._answer(200, len(PAGE))
            self.wfile.write(PAGE)
        elif self.path.startswith("/bytes/") and self.path[7:].isdigit():
            self._answer(200, int(self.path[7:]))
            self._send_zeros(int(self.path[7:]))
        else:
            self._answer(404, 0)

    def _answer(self, status: int, length: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def _send_zeros(self, count: int) -> None:
        block = memoryview(bytes(256 * 1024))
        while count > 0:
            self.wfile.write(block[:count])
            count -= len(block)


class Server(ThreadingHTTPServer):
    """Listens on both families."""

    address_family = socket.AF_INET6
    daemon_threads = True

    def server_bind(self) -> None:
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


def serve(ports: list[int]) -> None:
    """Serve on these ports until the process ends."""
    servers = [Server(("::", port), Handler) for port in ports]
    print('{"event": "ready"}', flush=True)
    for server in servers[1:]:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    servers[0].serve_forever()


if __name__ == "__main__":
    serve([int(port) for port in sys.argv[1:]])
