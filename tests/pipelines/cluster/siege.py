"""Two hundred clients of an endpoint at once, most of them decent, for a while."""

import asyncio
import json
from collections import Counter
from contextlib import suppress

import numpy as np

DECENT, OF_EACH_OTHER_KIND = 160, 10
BODY = json.dumps({"prompt": "a red circle on white", "seed": 3}).encode()
LARGE = 1 << 28


class Siege:
    """The clients, and what came of it: kind of client and what it was answered -> how often.

    Args:
        port: of the endpoint on this machine.
        token: that it asks for.
        seconds: that all go on for.
    """

    def __init__(self, port: int, token: str, seconds: float):
        self._port = port
        self._head = f"POST /v1/images/generations HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n".encode()
        self._head += b"Content-Type: application/json\r\n"
        self._seconds = seconds
        self.answers: Counter[tuple[str, str]] = Counter()
        self.longest_s = 0.0

    async def run(self) -> None:
        """Besiege."""
        self._until = asyncio.get_running_loop().time() + self._seconds
        others = (self._slow, self._large, self._cut, self._noise)
        clients = [self._decent() for _ in range(DECENT)]
        clients += [client(number) for client in others for number in range(OF_EACH_OTHER_KIND)]
        await asyncio.gather(self._watcher(), *clients)

    def _goes_on(self) -> bool:
        return asyncio.get_running_loop().time() < self._until

    async def _decent(self) -> None:
        while self._goes_on():
            answer = await self._asked(self._head + f"Content-Length: {len(BODY)}\r\nConnection: close\r\n\r\n".encode() + BODY)
            status, _, rest = answer.partition(b"\r\n")
            whole = b"200" not in status or json.loads(rest.partition(b"\r\n\r\n")[2])["data"][0]["b64_json"]
            self.answers["decent", status.decode() if whole else "cut"] += 1
            if b"503" in status:
                await asyncio.sleep(1.0)

    async def _watcher(self) -> None:
        """Is told at once that the endpoint lives, whoever else asks."""
        loop = asyncio.get_running_loop()
        while self._goes_on():
            began = loop.time()
            answer = await self._asked(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            self.longest_s = max(self.longest_s, loop.time() - began)
            self.answers["watcher", answer.partition(b"\r\n")[0].decode()] += 1
            await asyncio.sleep(0.5)

    async def _slow(self, _: int) -> None:
        """A byte of its head every fifth of a second."""
        while self._goes_on():
            with suppress(OSError):
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
                for byte in self._head:
                    if not self._goes_on() or reader.at_eof():
                        break
                    writer.write(bytes([byte]))
                    await writer.drain()
                    await asyncio.sleep(0.2)
                writer.close()

    async def _large(self, _: int) -> None:
        """A body that says it has 256 MiB, and sends them until it's told to stop."""
        while self._goes_on():
            with suppress(OSError):
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
                writer.write(self._head + f"Content-Length: {LARGE}\r\n\r\n".encode())
                answer = asyncio.ensure_future(reader.read())
                with suppress(OSError):
                    for _sent in range(0, LARGE, 1 << 16):
                        if answer.done() or not self._goes_on():
                            break
                        writer.write(b" " * (1 << 16))
                        await writer.drain()
                writer.close()
                self.answers["large", (await answer).partition(b"\r\n")[0].decode()] += 1

    async def _cut(self, number: int) -> None:
        """Half a request, and gone."""
        while self._goes_on():
            with suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", self._port)
                writer.write(self._head + f"Content-Length: {len(BODY)}\r\n\r\n".encode() + BODY[: 5 * number])
                await writer.drain()
                writer.close()
            await asyncio.sleep(0.2)

    async def _noise(self, number: int) -> None:
        """Bytes that are no HTTP."""
        rng = np.random.default_rng(number)
        while self._goes_on():
            with suppress(OSError):
                answer = await self._asked(rng.bytes(400) + b"\r\n\r\n")
                self.answers["noise", answer.partition(b"\r\n")[0].decode()] += 1
            await asyncio.sleep(0.2)

    async def _asked(self, request: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        writer.write(request)
        try:
            return await reader.read()
        finally:
            writer.close()
