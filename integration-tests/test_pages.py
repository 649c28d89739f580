"""The pages in a real browser, at the width of a desk and of a phone, and the login form."""

import asyncio
import json
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, ClientWebSocketResponse

CHROMIUM = shutil.which("chromium")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--remote-debugging-port=0",
)
WIDTHS = {"desk": 1280, "phone": 390}

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed here")


class Page:
    """One tab, driven over the DevTools protocol; `faults` collects what its scripts did wrong."""

    def __init__(self, socket: ClientWebSocketResponse) -> None:
        self._socket = socket
        self._num_sent = 0
        self.faults: list[str] = []

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        answer = await self._ask(method, **parameters)
        assert "error" not in answer, answer
        found: dict[str, Any] = answer["result"]
        return found

    async def _ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._num_sent += 1
        await self._socket.send_json({"id": self._num_sent, "method": method, "params": parameters})
        while True:
            message: dict[str, Any] = await self._socket.receive_json(timeout=30)
            if message.get("method") == "Runtime.exceptionThrown":
                self.faults.append(json.dumps(message["params"]["exceptionDetails"]))
            if message.get("id") == self._num_sent:
                return message

    async def open(self, url: str, width: int, shows: str = "form") -> None:
        await self.call("Runtime.enable")
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=800,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        await self.call("Page.navigate", url=url)
        await self.until(f"document.readyState === 'complete' && document.querySelector('{shows}')")

    async def value(self, script: str) -> Any:
        answer = await self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    async def until(self, condition: str) -> None:
        """Also across the loading of another page, in which a script may find nothing yet."""
        deadline = time.monotonic() + 30
        while True:
            answer = await self._ask("Runtime.evaluate", expression=f"Boolean({condition})")
            if answer.get("result", {}).get("result", {}).get("value"):
                return
            assert time.monotonic() < deadline, (condition, answer, self.faults)
            await asyncio.sleep(0.05)

    async def ask(self, text: str, **settings: str) -> str:
        """Send a message and return the text of the whole answer."""
        turn = await self.value("document.querySelectorAll('.turn').length") + 1
        for name, value in {**settings, "prompt": text}.items():
            await self.value(
                f"void (document.getElementById('{name}').value = {json.dumps(value)})"
            )
        await self.value("document.getElementById('form').requestSubmit()")
        answer = f"document.querySelectorAll('.turn')[{turn}]"
        await self.until(f"{answer}?.querySelector('.numbers')?.textContent.includes('ended by')")
        found: str = await self.value(f"{answer}.querySelector('.text').textContent")
        return found

    async def token_at(self, index: int) -> str:
        """Move the pointer onto a token; returns what the card then shows."""
        token = f"document.querySelectorAll('.token')[{index}]"
        async with asyncio.timeout(30):
            while True:
                # Where it is now: the page may scroll still.
                box = json.loads(await self.value(f"JSON.stringify({token}.getClientRects()[0])"))
                x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
                await self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
                if not await self.value("document.getElementById('card').hidden"):
                    break
                await asyncio.sleep(0.05)
        shown: str = await self.value("document.getElementById('card').innerText")
        return shown

    async def try_first_route(self) -> str:
        """Send the example of the first route of /docs; returns what is shown of the answer."""
        await self.value("document.querySelector('.opblock-summary-control').click()")
        # The button is there before the example is, and sends nothing without it.
        await self.until("document.querySelector('.body-param__text')?.value")
        await self.value("document.querySelector('.execute').click()")
        status = "document.querySelector('.live-responses-table .response .response-col_status')"
        await self.until(f"{status}?.innerText.trim()")
        shown: str = await self.value(
            "document.querySelector('.live-responses-table .response').innerText"
        )
        return shown

    async def fits_its_window(self) -> bool:
        return bool(await self.value("document.documentElement.scrollWidth <= window.innerWidth"))


@asynccontextmanager
async def new_page(directory: Path) -> AsyncIterator[Page]:
    assert CHROMIUM is not None
    process = await asyncio.create_subprocess_exec(
        CHROMIUM, *FLAGS, f"--user-data-dir={directory}", stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    said: asyncio.Task[bytes] | None = None
    try:
        async with asyncio.timeout(60):
            line = b""
            while b"DevTools listening" not in line:
                line = await process.stderr.readline()
                assert line, "chromium has ended"
        said = asyncio.create_task(process.stderr.read())  # or it would wait for a reader
        address = line.decode().split("ws://")[1].split("/")[0]
        async with (
            ClientSession() as session,
            session.ws_connect(await _first_tab(session, address)) as socket,
        ):
            yield Page(socket)
    finally:
        process.kill()
        await (process.communicate() if said is None else asyncio.gather(said, process.wait()))


async def _first_tab(session: ClientSession, address: str) -> str:
    """Where it is debugged; chromium listens before it has one."""
    async with asyncio.timeout(60):
        while True:
            async with session.get(f"http://{address}/json") as response:
                for tab in await response.json():
                    if tab["type"] == "page":
                        return str(tab["webSocketDebuggerUrl"])
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("device", WIDTHS)
async def test_a_chat(server: Any, tmp_path: Path, device: str) -> None:
    async with new_page(tmp_path) as page:
        await page.open(f"{server.base_url}/playground", WIDTHS[device])
        assert await page.fits_its_window()
        answer = await page.ask("Tell me about the sea, please.", temperature="0")
        assert len(answer) > 5
        numbers = await page.value("document.querySelector('.numbers').textContent")
        assert "tokens/s" in numbers
        assert "first token" in numbers
        card = await page.token_at(1)
        assert card.count("%") >= 5, card
        schema = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"]}
        formed = await page.ask("And now?", schema=json.dumps(schema))
        assert json.loads(formed)["n"] in (1, 2)
        assert await page.fits_its_window()
        assert page.faults == []


async def test_text_mode_and_a_refused_request(server: Any, tmp_path: Path) -> None:
    async with new_page(tmp_path) as page:
        await page.open(f"{server.base_url}/playground", WIDTHS["desk"])
        await page.value(
            "(() => { const mode = document.getElementById('mode'); mode.value = 'text';"
            " mode.dispatchEvent(new Event('change')); })()"
        )
        assert await page.ask("The moon", temperature="0", max_tokens="8")
        assert (await page.token_at(0)).count("%") >= 5
        await page.value("void (document.getElementById('max_tokens').value = '999999')")
        await page.value("void (document.getElementById('prompt').value = 'x')")
        await page.value("document.getElementById('form').requestSubmit()")
        await page.until("document.querySelector('.fault')?.textContent.includes('max_tokens')")
        assert page.faults == []


@pytest.mark.parametrize("device", WIDTHS)
async def test_the_docs(server: Any, tmp_path: Path, device: str) -> None:
    async with new_page(tmp_path) as page:
        await page.open(f"{server.base_url}/docs/", WIDTHS[device], shows=".opblock")
        assert await page.value("document.querySelectorAll('.opblock').length") > 25
        assert await page.value("document.querySelector('.info').innerText.includes('OAS 3.1')")
        answer = await page.try_first_route()
        assert answer.startswith("200"), answer
        assert '"chat.completion"' in answer
        # What was loaded came from this server.
        loaded = await page.value(
            "performance.getEntriesByType('resource').map((entry) => entry.name).join(' ')"
        )
        assert loaded
        assert all(url.startswith((server.base_url, "data:")) for url in loaded.split())
        assert await page.fits_its_window()
        assert page.faults == []


@pytest.mark.parametrize("path", ["playground", "docs"])
async def test_a_key_opens_the_pages(launch: Any, tmp_path: Path, path: str) -> None:
    with launch(api_key="first,second") as server:
        async with new_page(tmp_path) as page:
            await page.open(f"{server.base_url}/{path}", WIDTHS["desk"])
            for key, then in (
                ("wrong", "document.getElementById('fault').textContent.includes('not a key')"),
                ("second", "document.title !== 'API key' && !document.getElementById('fault')"),
            ):
                await page.value(f"void (document.getElementById('key').value = '{key}')")
                await page.value("document.getElementById('form').requestSubmit()")
                await page.until(f"document.readyState === 'complete' && {then}")
            if path == "playground":
                assert await page.ask("Hello", temperature="0")
            else:
                await page.until("document.querySelector('.opblock')")
                assert (await page.try_first_route()).startswith("200")
            assert page.faults == []
