"""A hub on the loopback: one repository's listing and files over HTTP."""

import json
import threading
from contextlib import contextmanager
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def _make_handler(model_id, files):
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self._answer(with_body=False)

        def do_GET(self):
            self._answer(with_body=True)

        def log_message(self, *_):
            pass

        def _answer(self, *, with_body):
            path = self.path.split("?")[0]
            name = path.rsplit("/", 1)[-1]
            if path.startswith(f"/api/models/{model_id}"):
                siblings = [{"rfilename": name, "size": len(data)} for name, data in files.items()]
                listing = {"id": model_id, "sha": COMMIT, "siblings": siblings}
                self._send(200, json.dumps(listing).encode(), with_body=with_body)
            elif path.startswith(f"/{model_id}/resolve/") and name in files:
                self._send(200, files[name], with_body=with_body)
            else:
                self._send(404, b"", with_body=with_body, error="RepoNotFound")

        def _send(self, status, body, *, with_body, error=None):
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", f'"{sha1(body).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            if error:
                self.send_header("X-Error-Code", error)
            self.end_headers()
            if with_body:
                self.wfile.write(body)

    return Handler


@contextmanager
def serve(model_id, files):
    """The base URL of a hub that has one model."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _make_handler(model_id, files))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
