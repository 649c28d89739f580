"""Clients that leave: their sequences end and their blocks come back."""

import contextlib
import http.client
import json
from typing import Any

PROMPT = "What is deep learning?"
# Demonstration answers end early: a high temperature with a wide vocabulary rarely does.
LONG = {"max_new_tokens": 1500, "do_sample": True, "temperature": 100.0, "seed": 1}


def begin(server: Any, path: str, payload: dict[str, Any]) -> http.client.HTTPConnection:
    connection = server.connect()
    connection.request(
        "POST", path, json.dumps(payload).encode(), {"content-type": "application/json"}
    )
    return connection


def drop(connection: http.client.HTTPConnection) -> None:
    connection.close()


def check_works(server: Any, expected: str) -> None:
    assert server.generate(PROMPT, max_new_tokens=10)["generated_text"] == expected


def test_streams_closed_half_way(server: Any) -> None:
    expected = server.generate(PROMPT, max_new_tokens=10)["generated_text"]
    payloads = {
        "/generate_stream": {"inputs": PROMPT, "parameters": LONG},
        "/v1/chat/completions": {
            "messages": [{"role": "user", "content": PROMPT}],
            "max_tokens": 1500,
            "temperature": 100.0,
            "stream": True,
        },
        "/v1/completions": {
            "prompt": PROMPT,
            "max_tokens": 1500,
            "temperature": 100,
            "stream": True,
        },
    }
    for _ in range(3):
        open_streams = [begin(server, path, payload) for path, payload in payloads.items()]
        for connection in open_streams:
            response = connection.getresponse()
            assert response.readline().startswith(b"data: ")
            response.close()
            drop(connection)
    server.wait_until_idle()
    check_works(server, expected)


def test_unstreamed_requests_aborted(server: Any) -> None:
    expected = server.generate(PROMPT, max_new_tokens=10)["generated_text"]
    dropped = server.metric("tgi_request_failure", '{err="dropped"}') or 0
    connections = [
        begin(server, "/generate", {"inputs": PROMPT, "parameters": LONG | {"seed": seed}})
        for seed in range(8)
    ]
    server.wait_until(lambda: (server.metric("tgi_batch_current_size") or 0) > 0, "running")
    for connection in connections:
        drop(connection)
    server.wait_until_idle()
    assert (server.metric("tgi_request_failure", '{err="dropped"}') or 0) > dropped
    check_works(server, expected)


def test_clients_that_leave_in_the_request(server: Any) -> None:
    """Half a request line, half a head, half a body."""
    head = b"POST /generate HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    for fragment in (b"POST /gen", head, head + b"content-length: 1000\r\n\r\n{"):
        with contextlib.closing(server.connect()) as connection:
            connection.connect()
            connection.sock.sendall(fragment)
    server.wait_until_idle()
    assert server.get("/health").status == 200
