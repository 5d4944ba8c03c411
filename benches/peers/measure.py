"""Measures headpond, docker-registry in proxy mode and nginx with static files, in turns.

One image lies behind an nginx that plays the upstream and counts its bytes. Each server answers under the same paths. Per
round every server is measured once, one after the other; the table has the medians. Client and server share the cores, so
ratios and CPU times are what to look at. Standard library only.
"""

import argparse
import concurrent.futures
import contextlib
import hashlib
import json
import os
import pathlib
import platform
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

MIB = 1024 * 1024
BLOBS = {"small": 10 * 1024, "medium": 200 * 1000 * 1000, "large": 1024 * MIB}
NAME = "bench/image"
MEDIA_TYPE = "application/vnd.oci.image.manifest.v1+json"
TICKS = os.sysconf("SC_CLK_TCK")
CONNECTIONS = 64
CLIENTS = 50
SLOW_READERS = 200
TIMEOUT = 120  # seconds, for any one command


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Content:
    """The image: a manifest and three blobs of random bytes."""

    def __init__(self, directory):
        self.directory = directory
        directory.mkdir()
        self.digests = {name: self._blob(size) for name, size in BLOBS.items()}
        descriptors = [
            {"mediaType": "application/octet-stream", "digest": self.digests[name], "size": size} for name, size in BLOBS.items()
        ]
        manifest = {"schemaVersion": 2, "mediaType": MEDIA_TYPE, "config": descriptors[0], "layers": descriptors[1:]}
        body = json.dumps(manifest).encode()
        self.manifest = "sha256:" + hashlib.sha256(body).hexdigest()
        (directory / "manifest").write_bytes(body)

    def _blob(self, size):
        path, hasher = self.directory / "new", hashlib.sha256()
        with path.open("wb") as file:
            for start in range(0, size, MIB):
                piece = os.urandom(min(MIB, size - start))
                hasher.update(piece)
                file.write(piece)
        path.rename(self.directory / hasher.hexdigest())
        return "sha256:" + hasher.hexdigest()


class Server:
    """A process that is started and ended here."""

    def __init__(self, name, work):
        self.name, self.work, self.port, self.process = name, work / name, free_port(), None
        self.work.mkdir()

    def command(self):
        raise NotImplementedError

    def start(self):
        log = (self.work / "log").open("ab")
        self.process = subprocess.Popen(self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(OSError), urllib.request.urlopen(self.url("/v2/"), timeout=2):
                return
            time.sleep(0.05)
        sys.exit(f"{self.name} did not start: {(self.work / 'log').read_text()[-2000:]}")

    def stop(self):
        if self.process is None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)
        self.process = None

    def empty(self):
        """Starts anew, with nothing cached."""
        self.stop()
        shutil.rmtree(self.work / "store", ignore_errors=True)
        self.start()

    def url(self, path):
        return f"http://127.0.0.1:{self.port}{path}"

    def blob(self, content, name):
        return self.url(f"/v2/{NAME}/blobs/{content.digests[name]}")

    def pids(self):
        found = [self.process.pid]
        with contextlib.suppress(OSError):
            children = pathlib.Path(f"/proc/{found[0]}/task/{found[0]}/children").read_text()
            found += [int(pid) for pid in children.split()]
        return found

    def cpu_seconds(self):
        total = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
                total += int(fields[11]) + int(fields[12])
        return total / TICKS

    def rss_mb(self):
        total = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                status = pathlib.Path(f"/proc/{pid}/status").read_text()
                total += int(re.search(r"VmRSS:\s+(\d+)", status)[1])
        return total / 1000


class Nginx(Server):
    """Static files under the paths of a registry. As the upstream it notes what it sent."""

    def __init__(self, name, work, content, counts=False):
        super().__init__(name, work)
        self.counts = self.work / "bytes" if counts else None
        locations = "".join(
            f"location = /v2/{NAME}/blobs/{digest} {{ default_type application/octet-stream; alias {content.directory}/{digest[7:]}; }}\n"
            for digest in content.digests.values()
        )
        for reference in ("latest", content.manifest):
            locations += (
                f"location = /v2/{NAME}/manifests/{reference} {{ default_type {MEDIA_TYPE};"
                f" add_header Docker-Content-Digest {content.manifest}; alias {content.directory}/manifest; }}\n"
            )
        log = f"log_format sent '$bytes_sent'; access_log {self.counts} sent;" if counts else "access_log off;"
        user = "user root;" if os.getuid() == 0 else ""
        temporary = "\n".join(f"{kind}_temp_path {self.work};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        (self.work / "nginx.conf").write_text(
            f"""{user} daemon off; pid {self.work}/pid; error_log stderr crit; worker_processes 2; worker_rlimit_nofile 65536;
            events {{ worker_connections 8192; }}
            http {{ {log} sendfile on; tcp_nopush on; keepalive_requests 100000000; {temporary}
            server {{ listen 127.0.0.1:{self.port} backlog=4096;
            location = /v2/ {{ default_type application/json; return 200 '{{}}'; }}
            {locations} }} }}"""
        )

    def command(self):
        return ["nginx", "-e", "stderr", "-p", str(self.work), "-c", str(self.work / "nginx.conf")]

    def sent_bytes(self):
        """Everything sent so far, once nothing is under way any more."""
        before = None
        for _ in range(60):
            now = sum(map(int, self.counts.read_text().split())) if self.counts.exists() else 0
            if now == before:
                return now
            before = now
            time.sleep(1)
        return before


class Registry(Server):
    """docker-registry in proxy mode."""

    def __init__(self, work, upstream):
        super().__init__("docker-registry", work)
        config = {
            "version": 0.1,
            "log": {"level": "error", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(self.work / "store")}, "cache": {"blobdescriptor": "inmemory"}},
            "http": {"addr": f"127.0.0.1:{self.port}"},
            "proxy": {"remoteurl": upstream.url("")},
        }
        (self.work / "config.yml").write_text(json.dumps(config))

    def command(self):
        return ["docker-registry", "serve", str(self.work / "config.yml")]


class Headpond(Server):
    def __init__(self, work, upstream):
        super().__init__("headpond", work)
        config = {
            "listen": f"127.0.0.1:{self.port}",
            "admin": {"address": f"127.0.0.1:{free_port()}"},
            "storage": {"path": str(self.work / "store")},
            "rules": [{"prefix": "ROOT", "upstream": upstream.url("")}],
            "log": {"level": "off"},
        }
        (self.work / "config.yml").write_text(json.dumps(config))

    def command(self):
        return [os.environ["HEADPOND_BINARY"], "serve", "--config", str(self.work / "config.yml")]


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=TIMEOUT).stdout


def curl(url, *options):
    """Discards the body. Seconds in all, seconds to its first byte, bytes."""
    form = "%{time_total} %{time_starttransfer} %{size_download} %{http_code}"
    command = ["curl", "-sS", "--max-time", str(TIMEOUT), "-o", "/dev/null", "-w", form, *options, url]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT + 10)
    total, first, size, status = finished.stdout.split()
    return float(total), float(first), int(float(size)), int(status)


def curls(count, url, *options):
    """So many at once: seconds until the last has ended, and each one's answer."""
    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        began = time.monotonic()
        answers = list(pool.map(lambda _: curl(url, *options), range(count)))
        return time.monotonic() - began, answers


def seconds_of(text):
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s|m)", text).groups()
    return float(number) * {"us": 1e-6, "ms": 1e-3, "s": 1, "m": 60}[unit]


class Bench:
    def __init__(self, options, work):
        self.options, self.values, self.order = options, {}, []
        self.content = Content(work / "content")
        self.upstream = Nginx("upstream", work, self.content, counts=True)
        self.headpond = Headpond(work, self.upstream)
        self.nginx = Nginx("nginx", work, self.content)
        self.registry = Registry(work, self.upstream)
        self.peers = [self.headpond, self.nginx, self.registry]

    def note(self, work, server, value):
        if work not in self.values:
            self.values[work] = {}
            self.order.append(work)
        self.values[work].setdefault(server.name, []).append(value)
        print(f"  {work}: {server.name} {value:.4g}", file=sys.stderr)

    def warm_up(self):
        for server in self.peers:
            server.stop()
            server.start()
            self.note("RSS idle, MB", server, server.rss_mb())
            for reference in ("latest", self.content.manifest):
                curl(server.url(f"/v2/{NAME}/manifests/{reference}"), "-H", f"Accept: {MEDIA_TYPE}")
            for name in BLOBS:
                for _ in range(2):
                    size = curl(server.blob(self.content, name))[2]
                    if size != BLOBS[name]:
                        print(f"  {server.name} sent {size} bytes of the {name} blob", file=sys.stderr)

    def requests(self):
        seconds = f"{self.options.seconds}s"
        for title, path in (
            ("manifest by tag", f"/v2/{NAME}/manifests/latest"),
            ("manifest by digest", f"/v2/{NAME}/manifests/{self.content.manifest}"),
            ("10 KB blob", f"/v2/{NAME}/blobs/{self.content.digests['small']}"),
        ):
            for server in self.peers:
                header = f"Accept: {MEDIA_TYPE}"
                cpu = server.cpu_seconds()
                said = run("wrk", "-t2", f"-c{CONNECTIONS}", "-d", seconds, "--latency", "-H", header, server.url(path))
                cpu = server.cpu_seconds() - cpu
                count = int(re.search(r"(\d+) requests in", said)[1])
                if "Non-2xx" in said:
                    print(f"  {server.name}: {re.search(r'Non-2xx.*', said)[0]}", file=sys.stderr)
                self.note(f"warm {title}, requests/s", server, float(re.search(r"Requests/sec:\s+([\d.]+)", said)[1]))
                self.note(f"warm {title}, p99 ms", server, seconds_of(re.search(r"99%\s+(\S+)", said)[1]) * 1000)
                self.note(f"warm {title}, CPU µs", server, cpu / max(count, 1) * 1e6)
        # wrk waits for the body of a HEAD; hey does not, but takes more of the machine for itself.
        for server in self.peers:
            url = server.url(f"/v2/{NAME}/manifests/latest")
            cpu = server.cpu_seconds()
            said = run("hey", "-z", seconds, "-c", str(CONNECTIONS), "-m", "HEAD", "-H", f"Accept: {MEDIA_TYPE}", url)
            cpu = server.cpu_seconds() - cpu
            count = sum(int(found) for found in re.findall(r"\[200\]\s+(\d+) responses", said))
            self.note("warm HEAD by tag (hey), requests/s", server, float(re.search(r"Requests/sec:\s+([\d.]+)", said)[1]))
            self.note("warm HEAD by tag (hey), CPU µs", server, cpu / max(count, 1) * 1e6)

    def streams(self):
        for count in (1, 8):
            for server in self.peers:
                cpu = server.cpu_seconds()
                seconds, answers = curls(count, server.blob(self.content, "large"))
                cpu = server.cpu_seconds() - cpu
                size = sum(size for _, _, size, _ in answers)
                plural = "s" if count > 1 else ""
                self.note(f"warm 1 GiB, {count} stream{plural}, GB/s", server, size / seconds / 1e9)
                self.note(f"warm 1 GiB, {count} stream{plural}, CPU s/GiB", server, cpu / (size / 1024**3))

    def cold(self):
        direct, first, _, _ = curl(self.upstream.blob(self.content, "large"))
        self.note("direct 1 GiB (from the nginx upstream), seconds", self.upstream, direct)
        for server in (self.headpond, self.registry):
            server.empty()
            sent, cpu = self.upstream.sent_bytes(), server.cpu_seconds()
            seconds, to_first, _, _ = curl(server.blob(self.content, "large"))
            self.note("cold 1 GiB, × direct", server, seconds / direct)
            self.note("cold 1 GiB, first byte after direct's, ms", server, (to_first - first) * 1000)
            self.note("cold 1 GiB, upstream bytes, ×", server, (self.upstream.sent_bytes() - sent) / BLOBS["large"])
            self.note("cold 1 GiB, CPU s", server, server.cpu_seconds() - cpu)
            server.empty()
            sent = self.upstream.sent_bytes()
            seconds, answers = curls(CLIENTS, server.blob(self.content, "medium"))
            whole = sum(size == BLOBS["medium"] and status == 200 for _, _, size, status in answers)
            self.note(f"{CLIENTS} clients, cold 200 MB, seconds", server, seconds)
            self.note(f"{CLIENTS} clients, cold 200 MB, upstream bytes, ×", server, (self.upstream.sent_bytes() - sent) / BLOBS["medium"])
            self.note(f"{CLIENTS} clients, cold 200 MB, whole bodies", server, whole)

    def slow(self):
        for server in self.peers:
            with concurrent.futures.ThreadPoolExecutor(1) as pool:
                readers = pool.submit(curls, SLOW_READERS, server.blob(self.content, "large"), "--limit-rate", "1M", "--max-time", "8")
                highest = 0
                while not readers.done():
                    highest = max(highest, server.rss_mb())
                    time.sleep(0.2)
            self.note(f"RSS with {SLOW_READERS} slow readers, MB", server, highest)

    def measure(self):
        self.upstream.start()
        for round_number in range(1, self.options.rounds + 1):
            for part in (self.warm_up, self.requests, self.streams, self.slow, self.cold):
                if self.options.only in part.__name__ or part.__name__ == "warm_up":
                    print(f"round {round_number} of {self.options.rounds}: {part.__name__}", file=sys.stderr)
                    part()

    def stop(self):
        for server in [*self.peers, self.upstream]:
            server.stop()

    def table(self):
        names = [server.name for server in self.peers]
        rows = [["", *names, "÷ nginx", "÷ docker-registry"]]
        for work in self.order:
            medians = {name: statistics.median(values) for name, values in self.values[work].items()}
            ours = medians.get("headpond")
            cells = [shown(medians[name]) if name in medians else "–" for name in names]
            if "upstream" in medians:
                cells[names.index("nginx")] = shown(medians["upstream"])
            for peer in ("nginx", "docker-registry"):
                cells.append(f"{ours / medians[peer]:.2f}" if ours is not None and medians.get(peer) else "–")
            rows.append([work, *cells])
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        for index, row in enumerate(rows):
            cells = [cell.ljust(width) if column == 0 else cell.rjust(width) for column, (cell, width) in enumerate(zip(row, widths))]
            print("| " + " | ".join(cells) + " |")
            if index == 0:
                print("|" + "|".join("-" * (width + 2) for width in widths) + "|")


def shown(value):
    return f"{value:,.0f}" if value >= 1000 else f"{value:,.3g}"


def first_line(*command):
    finished = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=10)
    return (finished.stdout.splitlines() or [""])[0].strip()


def machine():
    cpu = re.search(r"model name\s*:\s*(.*)", pathlib.Path("/proc/cpuinfo").read_text())
    memory = int(re.search(r"MemTotal:\s+(\d+)", pathlib.Path("/proc/meminfo").read_text())[1]) / 1024**2
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"{os.cpu_count()} × {cpu[1] if cpu else platform.machine()}, {memory:.0f} GiB, Linux {platform.release()}; load before: {load}")
    versions = [first_line(os.environ["HEADPOND_BINARY"], "--version"), first_line("nginx", "-v"), first_line("docker-registry", "--version")]
    print("; ".join(versions))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3, choices=range(1, 21), metavar="N")
    parser.add_argument("--seconds", type=int, default=5, choices=range(1, 61), metavar="N", help="of each run of wrk and hey")
    parser.add_argument("--quick", action="store_true", help="one round of two seconds")
    parser.add_argument("--only", default="", metavar="WORD", help="requests, streams, slow or cold")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds = 1, 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    machine()
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_DIR"), prefix="headpond-bench-") as work:
        bench = Bench(options, pathlib.Path(work))
        try:
            bench.measure()
        finally:
            bench.stop()
    print(f"medians of {options.rounds} rounds, {CONNECTIONS} connections, loopback, plain HTTP/1.1, no logs, bodies discarded\n")
    bench.table()


main()
