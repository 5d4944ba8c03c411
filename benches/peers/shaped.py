"""Measures a cold layer through headpond beside one direct connection, over lines that are shaped (line.py), in turns.

On the long line every connection is held to 20 MB/s, with 80 ms for a round trip; the wide one is 1 Gbit/s for all connections
together, with 2 ms. In every round each line is measured direct, then through headpond with nothing cached; headpond has the
manifest, as it would when a client asks for the layer. Client, server, line and upstream share the machine's cores, and TCP's slow
start is not modelled. Standard library only; needs nginx and curl.
"""

import argparse
import contextlib
import hashlib
import json
import os
import pathlib
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

MB = 1000 * 1000
NAME = "bench/image"
MEDIA_TYPE = "application/vnd.oci.image.manifest.v1+json"
LINES = {
    "long: 20 MB/s each, 80 ms": ["--each-mb", "20", "--latency-ms", "80"],
    "wide: 125 MB/s shared, 2 ms": ["--shared-mb", "125", "--latency-ms", "2"],
}
TIMEOUT = 120  # seconds, for any one command


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Upstream:
    """An nginx with one image of one layer."""

    def __init__(self, work, size):
        self.port, self.size = free_port(), size
        work.mkdir()
        self.layer = self._layer(work)
        layer = {"mediaType": "application/octet-stream", "digest": self.layer, "size": size}
        manifest = {"schemaVersion": 2, "mediaType": MEDIA_TYPE, "config": layer, "layers": [layer]}
        body = json.dumps(manifest).encode()
        (work / "manifest").write_bytes(body)
        user = "user root;" if os.getuid() == 0 else ""
        temporary = "\n".join(f"{kind}_temp_path {work};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        (work / "nginx.conf").write_text(
            f"""{user} daemon off; pid {work}/pid; error_log stderr crit;
            events {{ worker_connections 1024; }}
            http {{ access_log off; {temporary}
            server {{ listen 127.0.0.1:{self.port};
            location = /v2/ {{ default_type application/json; return 200 '{{}}'; }}
            location = /v2/{NAME}/blobs/{self.layer} {{ default_type application/octet-stream; alias {work}/layer; }}
            location = /v2/{NAME}/manifests/latest {{ default_type {MEDIA_TYPE};
              add_header Docker-Content-Digest sha256:{hashlib.sha256(body).hexdigest()}; alias {work}/manifest; }} }} }}"""
        )
        self.process = subprocess.Popen(["nginx", "-e", "stderr", "-p", str(work), "-c", str(work / "nginx.conf")])
        wait_for(f"http://127.0.0.1:{self.port}/v2/")

    def _layer(self, work):
        hasher = hashlib.sha256()
        with (work / "layer").open("wb") as file:
            for start in range(0, self.size, MB):
                piece = os.urandom(min(MB, self.size - start))
                hasher.update(piece)
                file.write(piece)
        return "sha256:" + hasher.hexdigest()


class Line:
    """The process of line.py."""

    def __init__(self, to_port, options):
        self.port = free_port()
        script = pathlib.Path(__file__).with_name("line.py")
        command = [sys.executable, str(script), "--port", str(self.port), "--to-port", str(to_port), *options]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        self.process.stdout.readline()

    def counts(self):
        """Bytes and connections since the last look."""
        self.process.stdin.write("\n")
        return map(int, self.process.stdout.readline().split())


class Headpond:
    """Nothing cached but the manifest."""

    def __init__(self, work, line):
        self.store, self.port = work / "store", free_port()
        config = {
            "listen": f"127.0.0.1:{self.port}",
            "admin": {"address": f"127.0.0.1:{free_port()}"},
            "storage": {"path": str(self.store)},
            "rules": [{"prefix": "ROOT", "upstream": f"http://127.0.0.1:{line.port}"}],
            "log": {"level": os.environ.get("HEADPOND_LOG", "off")},
        }
        (work / "config.yml").write_text(json.dumps(config))
        self.process = subprocess.Popen([os.environ["HEADPOND_BINARY"], "serve", "--config", str(work / "config.yml")])
        wait_for(f"http://127.0.0.1:{self.port}/v2/")
        curl(self.port, "manifests/latest", "-H", f"Accept: {MEDIA_TYPE}")

    def stop(self):
        stop(self.process)
        shutil.rmtree(self.store, ignore_errors=True)


def wait_for(url):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2):
            return
        time.sleep(0.05)
    sys.exit(f"{url} does not answer")


def stop(process):
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(10)


def curl(port, path, *options):
    """Discards the body. Seconds in all, seconds to its first byte, bytes."""
    form = "%{time_total} %{time_starttransfer} %{size_download}"
    command = ["curl", "-sS", "--fail", "--max-time", str(TIMEOUT), "-o", "/dev/null", "-w", form, *options]
    command.append(f"http://127.0.0.1:{port}/v2/{NAME}/{path}")
    finished = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=TIMEOUT + 10, check=True)
    total, first, size = finished.stdout.split()
    return float(total), float(first), int(size)


class Bench:
    def __init__(self, options, work):
        self.work, self.options, self.values = work, options, {}
        self.upstream = Upstream(work / "upstream", options.mb * MB)
        self.lines = {name: Line(self.upstream.port, shape) for name, shape in LINES.items() if options.only in name}

    def measure(self):
        for number in range(1, self.options.rounds + 1):
            for name, line in self.lines.items():
                direct, direct_first, _ = self.layer(line.port)
                line.counts()
                headpond = Headpond(self.work, line)
                line.counts()
                try:
                    through, first, size = self.layer(headpond.port)
                    time.sleep(0.5)  # what is under way has arrived
                    sent, connections = line.counts()
                finally:
                    headpond.stop()
                if size != self.upstream.size:
                    sys.exit(f"headpond sent {size} bytes")
                measured = {
                    "direct, s": direct,
                    "headpond, s": through,
                    "headpond ÷ direct": through / direct,
                    "first byte, direct, ms": direct_first * 1000,
                    "first byte, headpond, ms": first * 1000,
                    "first byte ÷ direct": first / direct_first,
                    "bytes on the line ÷ layer": sent / size,
                    "connections": connections,
                }
                for what, value in measured.items():
                    self.values.setdefault(name, {}).setdefault(what, []).append(value)
                print(f"round {number}, {name}: " + ", ".join(f"{what} {value:.4g}" for what, value in measured.items()), file=sys.stderr)

    def layer(self, port):
        return curl(port, f"blobs/{self.upstream.layer}")

    def table(self):
        print("| line | " + " | ".join(next(iter(self.values.values()))) + " |")
        print("|---|" + "---:|" * len(next(iter(self.values.values()))))
        for name, values in self.values.items():
            print(f"| {name} | " + " | ".join(f"{statistics.median(found):.3g}" for found in values.values()) + " |")

    def stop(self):
        for process in [line.process for line in self.lines.values()] + [self.upstream.process]:
            stop(process)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3, choices=range(1, 21), metavar="N")
    parser.add_argument("--mb", type=int, default=500, help="of the layer")
    parser.add_argument("--only", default="", metavar="WORD", help="long or wide")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"{os.cpu_count()} cores, load before: {load}; {options.mb} MB, medians of {options.rounds} rounds\n")
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_DIR"), prefix="headpond-bench-") as work:
        bench = Bench(options, pathlib.Path(work))
        try:
            bench.measure()
        finally:
            bench.stop()
    bench.table()


main()
