"""A HighLevel without calls: every answer is empty and takes as long as a real one."""

import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

LATENCY: Final = 0.05


class Nothing(BaseHTTPRequestHandler):
    """A HighLevel without calls."""

    protocol_version = "HTTP/1.1"
    # One packet per answer: a second one would wait 40 ms until the first is acknowledged.
    wbufsize = -1
    body = b'{"callLogs": [], "total": 0}'
    latency = LATENCY

    def do_GET(self) -> None:
        """Return no calls, after ``latency`` seconds."""
        time.sleep(self.latency)
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *args: object) -> None:
        """Log nothing."""


def serve(ready: Any, latency: float = LATENCY) -> None:
    """Answer until killed, each time after ``latency`` seconds."""
    Nothing.latency = latency
    ThreadingHTTPServer.request_queue_size = 256
    server = ThreadingHTTPServer(("127.0.0.1", 0), Nothing)
    ready.send(server.server_port)
    server.serve_forever()
