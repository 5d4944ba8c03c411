"""A small HTTP proxy in front of the upstream: counts every request, and can be made to fail in each way upstreams do.

Bodies of requests are not relayed: nothing is pushed through it. It speaks HTTP/1.1 with keep-alive to its client, and
opens one connection to the upstream per request.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Mapping

from parts.edge import Edge
from parts.journal import Journal, Seen
from parts.process import free_port

PIECE_BYTES = 256 * 1024
# Clients that may not verify TLS try it first: they must be told at once that there is none.
TLS_HANDSHAKE = b"\x16"


class Gate:
    """Holds bodies back at a number of bytes: `reached` is set by the first that gets there, `open` lets all go on."""

    def __init__(self, part: str, at_bytes: int):
        self.part = part
        self.at_bytes = at_bytes
        self.reached = threading.Event()
        self._opened = threading.Event()

    def open(self) -> None:
        self._opened.set()

    async def pass_through(self, seen: Seen) -> None:
        while self.part in seen.path and seen.body_bytes >= self.at_bytes and not self._opened.is_set():
            self.reached.set()
            await asyncio.sleep(0.01)


class Proxy:
    """Runs in a thread of its own. Knobs are plain attributes, read anew for each request or piece."""

    def __init__(self, upstream: Edge, host: str = "127.0.0.1"):
        self.upstream = upstream
        self.edge = Edge(free_port(), host=host, connect_to=host)
        self.journal = Journal()
        self.bytes_per_second: int | None = None
        self.hides_length = False
        self.gate: Gate | None = None
        self._answer: tuple[int, Mapping[str, str]] | None = None
        self._hangs = False
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._do(self._listen())

    def recover(self) -> None:
        """Back to passing everything through."""
        self._answer = None
        self._hangs = False
        if self._server is None:
            self._do(self._listen())

    def refuse(self) -> None:
        """As when the upstream is stopped: connections break off, new ones are refused."""
        self._do(self._close())

    def hang(self) -> None:
        """Takes requests and never answers them."""
        self._hangs = True

    def answer(self, status: int, headers: Mapping[str, str] | None = None) -> None:
        """Answers every request with this status, itself."""
        self._answer = (status, dict(headers or {}))

    def hold_bodies(self, part: str, at_bytes: int) -> Gate:
        self.gate = Gate(part, at_bytes)
        return self.gate

    def stop(self) -> None:
        if self.gate:
            self.gate.open()
        self._do(self._close())
        self._do(self._cancel_all())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def _do(self, work) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, self.edge.host, self.edge.port, limit=PIECE_BYTES)

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._clients):
            writer.transport.abort()

    async def _cancel_all(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients.add(writer)
        try:
            while await self._serve_one(reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            self._clients.discard(writer)
            writer.transport.abort() if writer.transport.is_closing() else writer.close()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answers one request; false when the connection is at its end."""
        first = await reader.readexactly(1)
        if first == TLS_HANDSHAKE:
            return False
        head = first + await reader.readuntil(b"\r\n\r\n")
        seen = _parse_request(head, writer.get_extra_info("peername")[0])
        self.journal.add(seen)
        if self._hangs:
            await reader.read()
            return False
        if self._answer is not None:
            seen.status = self._answer[0]
            writer.write(_own_answer(*self._answer, seen.method))
            await writer.drain()
            return True
        return await self._relay(head, seen, writer)

    async def _relay(self, head: bytes, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        reader, onward = await asyncio.open_connection(self.upstream.host, self.upstream.port, limit=PIECE_BYTES)
        try:
            onward.write(_replace_headers(head, {"connection": "close"}))
            answer = await reader.readuntil(b"\r\n\r\n")
            seen.status = int(answer.split(b" ", 2)[1])
            length = _headers(answer).get("content-length")
            hides = self.hides_length and "/blobs/" in seen.path and length is not None
            writer.write(_replace_headers(answer, _framing(seen.method, length, hides)))
            if seen.method == "HEAD" or seen.status in (204, 304):
                await writer.drain()
                return True
            await self._relay_body(reader, seen, writer, _chunk if hides else bytes)
            if hides:
                writer.write(b"0\r\n\r\n")
            await writer.drain()
            return length is not None
        finally:
            onward.close()

    async def _relay_body(
        self, reader: asyncio.StreamReader, seen: Seen, writer: asyncio.StreamWriter, frame: Callable[[bytes], bytes]
    ) -> None:
        while piece := await reader.read(self._piece_bytes()):
            writer.write(frame(piece))
            await writer.drain()
            seen.body_bytes += len(piece)
            if self.bytes_per_second:
                await asyncio.sleep(len(piece) / self.bytes_per_second)
            if self.gate:
                await self.gate.pass_through(seen)

    def _piece_bytes(self) -> int:
        return 32 * 1024 if self.bytes_per_second or self.gate else PIECE_BYTES


def _parse_request(head: bytes, client: str) -> Seen:
    method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
    path, _, query = target.partition("?")
    return Seen(method, path, query, _headers(head), client)


def _headers(head: bytes) -> dict[str, str]:
    """Names in lower case; a repeated header is joined."""
    found: dict[str, str] = {}
    for line in head.decode("latin-1").split("\r\n")[1:]:
        name, colon, value = line.partition(":")
        if colon:
            name = name.strip().lower()
            found[name] = f"{found[name]}, {value.strip()}" if name in found else value.strip()
    return found


def _replace_headers(head: bytes, changes: Mapping[str, str | None]) -> bytes:
    """The head with these headers set, or taken out where the value is None; all others stay as they are."""
    lines = head.decode("latin-1").split("\r\n")
    kept = [line for line in lines[1:] if line and line.partition(":")[0].strip().lower() not in changes]
    added = [f"{name}: {value}" for name, value in changes.items() if value is not None]
    return ("\r\n".join([lines[0], *kept, *added]) + "\r\n\r\n").encode("latin-1")


def _framing(method: str, length: str | None, hides_length: bool) -> dict[str, str | None]:
    changes: dict[str, str | None] = {"connection": "keep-alive" if length is not None else "close"}
    if hides_length:
        changes["content-length"] = None
        if method != "HEAD":
            changes["transfer-encoding"] = "chunked"
    return changes


def _chunk(piece: bytes) -> bytes:
    return f"{len(piece):x}\r\n".encode() + piece + b"\r\n"


def _own_answer(status: int, headers: Mapping[str, str], method: str) -> bytes:
    body = b'{"errors":[{"code":"UNAVAILABLE","message":"told so by the test"}]}'
    lines = [f"HTTP/1.1 {status} Told", "Content-Type: application/json", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + (b"" if method == "HEAD" else body)


@contextlib.contextmanager
def in_front_of(upstream: Edge, host: str = "127.0.0.1"):
    proxy = Proxy(upstream, host)
    try:
        yield proxy
    finally:
        proxy.stop()
