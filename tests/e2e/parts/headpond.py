"""The release binary under test: its configuration, its life, its metrics, its store and its log."""

import os
import re
import signal
from pathlib import Path

import yaml

from parts.edge import Answer, Edge, request
from parts.network import THIS_HOST, Host
from parts.process import Process, run, wait_until
from parts.stores import Store
from parts.tls import HOST, Authority, Certificate
from parts.way import MIRRORED_HOST, PREFIX

USERNAME, PASSWORD = "node", "correct horse"
SAMPLE = re.compile(r"^(?P<name>[a-z_]+)(?:\{(?P<labels>.*)\})? (?P<value>\S+)$")
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


def binary() -> Path:
    path = Path(os.environ["HEADPOND_BINARY"]).resolve()
    assert path.is_file(), f"HEADPOND_BINARY names no file: {path}"
    return path


def rules_for(upstream: Edge, **more) -> list[dict]:
    """Every manner of naming one upstream: by prefix and `?ns=`, by another host's `?ns=`, and with no prefix at all."""
    rule = {"upstream": upstream.url, **more}
    if upstream.ca:
        rule["ca"] = str(upstream.ca)
    return [
        {"prefix": PREFIX, "hosts": [MIRRORED_HOST], "mirror": True, **rule},
        {"prefix": "quay", "hosts": ["quay.test"], **rule},
        {"prefix": "ROOT", **rule},
    ]


class Headpond:
    """One instance, in a folder that holds its configuration, its log and, unless told otherwise, its store."""

    def __init__(
        self,
        folder: Path,
        rules: list[dict],
        store: Store | None = None,
        env: dict[str, str] | None = None,
        host: Host | None = None,
        **settings,
    ):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.host = host or THIS_HOST
        self.store = store or Store(folder / "store")
        self.edge = self.host.edge()
        self.admin = self.host.edge()
        self.log = folder / "headpond.log"
        self.env = self.store.env | (env or {})
        self.settings = {
            "listen": self.edge.address,
            "admin": {"address": self.admin.address},
            "storage": self.store.settings,
            "rules": rules,
            **settings,
        }
        self.process: Process | None = None

    def write_config(self) -> Path:
        path = self.folder / "headpond.yaml"
        path.write_text(yaml.safe_dump(self.settings, sort_keys=False))
        return path

    def start(self) -> "Headpond":
        command = [*self.host.enter, str(binary()), "serve", "--config", str(self.write_config())]
        self.process = Process(command, self.log, self.env, cwd=self.folder)
        self.process.wait_until(lambda: self.ready() == 200, "is ready")
        return self

    def ready(self) -> int | None:
        """The status of /readyz; None when the admin port is closed."""
        try:
            return request(self.admin, "/readyz", timeout=5).status
        except OSError:
            return None

    def stop(self) -> int:
        return self.process.stop() if self.process else 0

    def kill(self) -> None:
        self.process.kill()

    def reload(self) -> None:
        """Writes the settings anew and sends SIGHUP; the caller waits for the effect it expects."""
        self.write_config()
        self.process.signal(signal.SIGHUP)

    def get(self, path: str, method: str = "GET", **options) -> Answer:
        return request(self.edge, path, method, **options)

    def total(self, name: str, **labels: str) -> float:
        """The sum of a metric over all samples that carry these labels."""
        return sum(value for found, value in self.samples(name) if labels.items() <= found.items())

    def samples(self, name: str) -> list[tuple[dict[str, str], float]]:
        text = request(self.admin, "/metrics").body.decode()
        matches = (SAMPLE.match(line) for line in text.splitlines())
        return [
            (dict(LABEL.findall(found["labels"] or "")), float(found["value"]))
            for found in matches
            if found and found["name"] == name
        ]

    def log_lines(self, part: str = "") -> list[str]:
        return [line for line in self.log.read_text(errors="replace").splitlines() if part in line]

    def peak_memory_bytes(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024

    def quiet(self) -> None:
        """Waits until no fill is under way and nobody follows one."""
        busy = ("headpond_fills_inflight", "headpond_followers_inflight")
        wait_until(lambda: sum(self.total(name) for name in busy) == 0, "no fill is in flight")


class SecureHeadpond(Headpond):
    """Behind TLS with a CA of the test's own, and a password. `edge` is by address, `named_edge` by name over IPv6."""

    def __init__(self, folder: Path, rules: list[dict], authority: Authority, **settings):
        super().__init__(folder, rules, auth={"users": "users.htpasswd"}, **settings)
        self.authority = authority
        plain = self.edge
        secure = {"ca": authority.certificate, "username": USERNAME, "password": PASSWORD}
        self.edge = Edge(plain.port, **secure)
        self.named_edge = Edge(plain.port, host=HOST, connect_to="::1", **secure)
        self.certificate = self.renew_certificate()
        tls = {"certificate": "tls.crt", "key": "tls.key"}
        addresses = [f"127.0.0.1:{plain.port}", f"[::1]:{plain.port}"]
        self.settings["listen"] = [{"address": address, "tls": tls} for address in addresses]
        self.set_users({USERNAME: PASSWORD})

    def renew_certificate(self) -> Certificate:
        self.certificate = self.authority.issue("tls", self.folder)
        return self.certificate

    def set_users(self, users: dict[str, str]) -> None:
        """Hashed by `headpond hash-password`: what it prints is what it must take."""
        lines = [f"{name}:{hash_password(password)}" for name, password in users.items()]
        (self.folder / "users.htpasswd").write_text("\n".join(lines) + "\n")


def hash_password(password: str) -> str:
    return run([str(binary()), "hash-password"], text_in=password).strip()
