"""A long line: a TCP proxy that adds latency, and holds each connection, or all together, to a rate.

What it models: the time of a round trip (a connection costs one before its first request, each request another), a rate for
every connection, or one that all share, and bytes that are under way when a connection is closed. What it does not: TCP's slow
start, losses, and the jitter of real lines. Run as a process of its own; commands on stdin, one answer each on stdout.
"""

import argparse
import asyncio
import collections
import socket
import sys
import time

PIECE_BYTES = 64 * 1024
# Time that was not used and may be made up for: sleeps are not exact.
MAKE_UP_SECONDS = 0.02


class Rate:
    """Lets bytes through at a rate, first come, first served."""

    def __init__(self, bytes_per_second):
        self.bytes_per_second, self.free_at = bytes_per_second, 0.0

    async def take(self, count):
        now = time.monotonic()
        self.free_at = max(self.free_at, now - MAKE_UP_SECONDS) + count / self.bytes_per_second
        if self.free_at > now:
            await asyncio.sleep(self.free_at - now)


class Line:
    def __init__(self, options):
        self.to_port, self.one_way = options.to_port, options.latency_ms / 2000
        self.each, self.shared = options.each_mb * 1e6, Rate(options.shared_mb * 1e6) if options.shared_mb else None
        self.sent_bytes = self.connections = 0

    async def serve(self, reader, writer):
        self.connections += 1
        # The handshake, which loopback did in no time, and the request on its way.
        await asyncio.sleep(2 * self.one_way)
        onward_reader, onward_writer = await asyncio.open_connection("127.0.0.1", self.to_port, limit=2 * PIECE_BYTES)
        rate = Rate(self.each) if self.each else None
        ways = [
            asyncio.create_task(self.carry(reader, onward_writer, None, False)),
            asyncio.create_task(self.carry(onward_reader, writer, rate, True)),
        ]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        for end in (writer, onward_writer):
            end.transport.abort()

    async def carry(self, reader, writer, rate, counts):
        """What is on the line is sent: it cannot be called back."""
        under_way, arrived = collections.deque(), asyncio.Event()
        unload = asyncio.create_task(self.unload(under_way, arrived, writer))
        try:
            while piece := await reader.read(PIECE_BYTES):
                for limit in (rate, self.shared if counts else None):
                    if limit:
                        await limit.take(len(piece))
                if counts:
                    self.sent_bytes += len(piece)
                under_way.append((time.monotonic() + self.one_way, piece))
                arrived.set()
                # A receiver that takes nothing holds the sender up, as its window does.
                while len(under_way) > 1024 and not unload.done():
                    await asyncio.sleep(0.005)
            under_way.append((0, None))
            arrived.set()
            await unload
        except OSError:
            pass
        finally:
            unload.cancel()

    async def unload(self, under_way, arrived, writer):
        while True:
            while not under_way:
                arrived.clear()
                await arrived.wait()
            due, piece = under_way.popleft()
            if piece is None:
                return
            if (wait := due - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            writer.write(piece)
            await writer.drain()


async def run(options):
    line = Line(options)
    server = await asyncio.start_server(line.serve, "127.0.0.1", options.port, limit=2 * PIECE_BYTES)
    for listener in server.sockets:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    print("ready", flush=True)
    commands = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    while await commands.readline():
        print(line.sent_bytes, line.connections, flush=True)
        line.sent_bytes = line.connections = 0


parser = argparse.ArgumentParser()
parser.add_argument("--port", type=int, required=True)
parser.add_argument("--to-port", type=int, required=True)
parser.add_argument("--latency-ms", type=float, default=0, help="of a round trip")
parser.add_argument("--each-mb", type=float, default=0, help="MB/s of one connection; 0 is no limit")
parser.add_argument("--shared-mb", type=float, default=0, help="MB/s of all together; 0 is no limit")
asyncio.run(run(parser.parse_args()))
