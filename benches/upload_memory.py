"""What the memory of a server grows by while a large blob fills and goes to a bucket.

`make bench-upload`; `ARGS='--mb 256 --directory /dev/shm'` for others. The blob is pulled twice, each time through a
server of its own: over a bucket, and over a disk alone. The difference is what the upload takes. Upstream and bucket are
small servers of this script, which keep none of its bytes. Nothing here is pass or fail.
"""

import argparse
import hashlib
import os
import subprocess
import tempfile
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

PIECE = 1 << 20
# One that does not shrink, sent again and again: each piece begins with its number.
NOISE = os.urandom(PIECE)
DEADLINE_SECONDS = 300


def piece(number: int) -> bytes:
    return number.to_bytes(8, "big") + NOISE[8:]


def digest_of(megabytes: int) -> str:
    hasher = hashlib.sha256()
    for number in range(megabytes):
        hasher.update(piece(number))
    return "sha256:" + hasher.hexdigest()


class Quiet(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status: int, body: bytes = b"", length: int | None = None, **headers: str):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def upstream(blobs: dict[str, int]) -> ThreadingHTTPServer:
    """A registry that has these blobs, by their megabytes."""

    class Registry(Quiet):
        def do_GET(self):
            megabytes = blobs.get(self.path.rsplit("/", 1)[-1])
            if megabytes is None:
                return self.answer(200 if self.path == "/v2/" else 404)
            self.answer(200, length=megabytes * PIECE, Content_Type="application/octet-stream")
            if self.command == "GET":
                for number in range(megabytes):
                    self.wfile.write(piece(number))

        do_HEAD = do_GET

    return serve(Registry)


class Bucket:
    """S3 as far as it is asked for here. Of what comes in parts it keeps the length, and takes its time for each."""

    def __init__(self, part_seconds: float):
        self.lengths: dict[str, int] = {}
        self.small: dict[str, bytes] = {}
        self.parts: dict[str, dict[int, int]] = {}
        self.lock = threading.Lock()
        bucket = self

        class Objects(Quiet):
            def do_GET(self):
                with bucket.lock:
                    length, body = bucket.lengths.get(self.key), bucket.small.get(self.key, b"")
                if "list-type" in self.query:
                    return self.answer(200, b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>")
                if length is None:
                    return self.answer(404)
                self.answer(200, body, length, ETag=f'"{length}"', Last_Modified="Thu, 01 Jan 2026 00:00:00 GMT")

            do_HEAD = do_GET

            def do_PUT(self):
                length, body = self.body()
                if "uploadId" in self.query:
                    time.sleep(part_seconds)
                with bucket.lock:
                    if "uploadId" in self.query:
                        bucket.parts[self.key][int(self.query["partNumber"][0])] = length
                    else:
                        bucket.lengths[self.key], bucket.small[self.key] = length, body
                self.answer(200, ETag=f'"{length}"')

            def do_POST(self):
                self.body()
                with bucket.lock:
                    if "uploads" in self.query:
                        bucket.parts[self.key] = {}
                        xml = b"<InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>"
                    else:
                        bucket.lengths[self.key] = sum(bucket.parts.pop(self.key).values())
                        xml = b'<CompleteMultipartUploadResult><ETag>"1"</ETag></CompleteMultipartUploadResult>'
                self.answer(200, xml)

            def do_DELETE(self):
                with bucket.lock:
                    bucket.lengths.pop(self.key, None)
                self.answer(204)

            @property
            def key(self) -> str:
                return urlsplit(self.path).path

            @property
            def query(self) -> dict[str, list[str]]:
                return parse_qs(urlsplit(self.path).query, keep_blank_values=True)

            def body(self) -> tuple[int, bytes]:
                """Its length, and, if it is short, its bytes."""
                length = left = int(self.headers.get("Content-Length", 0))
                kept = b""
                while left > 0 and (read := self.rfile.read(min(left, PIECE))):
                    left -= len(read)
                    kept = read if length <= PIECE else b""
                return length, kept

        self.server = serve(Objects)

    def has(self, digest: str, megabytes: int) -> bool:
        """All of it: a record of a blob may be named as the blob is."""
        hexadecimal, length = digest.partition(":")[2], megabytes * PIECE
        with self.lock:
            return any(key.endswith(hexadecimal) and found == length for key, found in self.lengths.items())


def serve(handler: type) -> ThreadingHTTPServer:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def url(server: ThreadingHTTPServer) -> str:
    return f"http://127.0.0.1:{server.server_port}"


def wait(what: str, holds):
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not holds():
        if time.monotonic() > deadline:
            raise SystemExit(f"not within {DEADLINE_SECONDS} s: {what}")
        time.sleep(0.02)


def memory(pid: int, row: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(row + ":"):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"/proc has no {row}")


def pull(port: int, digest: str):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/up/library/x/blobs/{digest}", timeout=DEADLINE_SECONDS) as answer:
        while answer.read(PIECE):
            pass


def measure(binary: str, folder: Path, blobs: dict[str, int], registry: str, bucket: Bucket | None) -> tuple[int, float]:
    """How far the memory of a server grows over what it was after a small blob, and the seconds it took."""
    folder.mkdir()
    storage = f"{{path: {folder}/store"
    if bucket:
        for name in ("access", "secret"):
            (folder / name).write_text("unused")
        keys = f'access_key: "file:{folder}/access", secret_key: "file:{folder}/secret"'
        storage += f', s3: {{bucket: cache, endpoint: "{url(bucket.server)}", region: us-east-1, {keys}}}'
    config = folder / "headpond.yaml"
    config.write_text(
        f"listen: [127.0.0.1:0]\nadmin: {{address: 127.0.0.1:0}}\nstorage: {storage}}}\n"
        f'rules: [{{prefix: up, upstream: "{registry}"}}]\n'
    )
    log = folder / "log"
    with log.open("w") as output:
        server = subprocess.Popen([binary, "serve", "--config", str(config)], stdout=output, stderr=output)
    try:
        port = listening_port(server.pid, log)
        small, large = blobs
        pull(port, small)
        wait("the small blob is in the bucket", lambda: not bucket or bucket.has(small, blobs[small]))
        time.sleep(1)
        before = memory(server.pid, "VmRSS")
        # The peak is counted from now on.
        Path(f"/proc/{server.pid}/clear_refs").write_text("5")
        began = time.monotonic()
        pull(port, large)
        wait("the large blob is in the bucket", lambda: not bucket or bucket.has(large, blobs[large]))
        return memory(server.pid, "VmHWM") - before, time.monotonic() - began
    finally:
        server.terminate()
        server.wait()


def listening_port(pid: int, log: Path) -> int:
    """The port that answers as a registry does."""
    found = []

    def answers() -> bool:
        if Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z":
            raise SystemExit(log.read_text())
        for port in ports_of(pid):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/", timeout=5) as answer:
                    found.extend([port] * (answer.status == 200))
            except OSError:
                pass
        return bool(found)

    wait("the server answers", answers)
    return found[0]


def ports_of(pid: int) -> list[int]:
    inodes = {opened(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()}
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [int(row[1].split(":")[1], 16) for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in inodes]


def opened(entry: Path) -> str | None:
    try:
        return os.readlink(entry)
    except FileNotFoundError:
        return None  # It is closed by now.


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--mb", type=int, default=1024, help="length of the blob, in MiB")
    parser.add_argument("--part-ms", type=int, default=300, help="how late the bucket answers for a part: so all that may be under way are")
    parser.add_argument("--directory", help="where the stores are for a while")
    arguments = parser.parse_args()
    binary = os.environ["HEADPOND_BINARY"]
    lengths = {digest_of(megabytes): megabytes for megabytes in (1, arguments.mb)}
    registry, grown = url(upstream(lengths)), {}
    for name, bucket in (("disk", None), ("bucket", Bucket(arguments.part_ms / 1000))):
        with tempfile.TemporaryDirectory(dir=arguments.directory) as folder:
            growth, seconds = measure(binary, Path(folder) / name, lengths, registry, bucket)
        grown[name] = growth
        print(f"{arguments.mb} MiB over {name:6}: memory grew by {growth / PIECE:6.1f} MiB at most, in {seconds:.1f} s", flush=True)
    print(f"the upload takes {(grown['bucket'] - grown['disk']) / PIECE:.1f} MiB of that")


if __name__ == "__main__":
    main()
