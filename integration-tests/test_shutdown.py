"""SIGTERM, JSON logs and the API key, on a server of their own."""

import contextlib
import http.client
import json
from typing import Any

KEY = "secret-key"
PROMPT = "What is deep learning?"


def test_drain_while_streaming(launch: Any) -> None:
    with launch("--json-output", api_key=KEY) as server:
        check_api_key(server)
        check_json_logs(server)
        with contextlib.closing(server.connect()) as connection:
            parameters = {
                "max_new_tokens": 400,
                "do_sample": True,
                "temperature": 100.0,
                "seed": 3,
                "details": True,
            }
            connection.request(
                "POST",
                "/generate_stream",
                json.dumps({"inputs": PROMPT, "parameters": parameters}),
                {"content-type": "application/json", "authorization": f"Bearer {KEY}"},
            )
            stream = connection.getresponse()
            assert stream.readline().startswith(b"data: ")
            server.terminate()
            check_refused(server)
            *_, last = stream.read().rstrip(b"\n").split(b"\n\n")
            final = json.loads(last.removeprefix(b"data: "))
            assert final["generated_text"] is not None
            assert final["details"]["finish_reason"] in ("length", "eos_token")
    # Leaving the block asserts exit code 0 and that no process is left.


def check_api_key(server: Any) -> None:
    body = json.dumps({"inputs": PROMPT, "parameters": {"max_new_tokens": 1}}).encode()
    headers = {"content-type": "application/json"}
    assert server.request("POST", "/generate", body, headers).status == 401
    wrong = headers | {"authorization": "Bearer other"}
    assert server.request("POST", "/generate", body, wrong).status == 401
    right = headers | {"authorization": f"Bearer {KEY}"}
    assert server.request("POST", "/generate", body, right).status == 200
    assert server.get("/health").status == 200


def check_json_logs(server: Any) -> None:
    lines = server.logs().split("\n")[:-1]  # the last one may be half written
    assert lines
    for line in lines:
        record = json.loads(line)
        assert {"timestamp", "level", "target", "message"} <= record.keys()


def check_refused(server: Any) -> None:
    """Soon after SIGTERM new work is refused: with 503, or the port is closed."""

    def refused() -> bool:
        try:
            payload = {"inputs": PROMPT, "parameters": {"max_new_tokens": 1}}
            answer = server.post("/generate", payload)
        except (OSError, http.client.HTTPException):
            return True
        return bool(answer.status == 503)

    server.wait_until(refused, "refusing")
