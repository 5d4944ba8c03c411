"""Processes this suite starts: each dies with the suite, logs to a file, and is ended by its own pid."""

import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

# Preset in many environments, and each would override a CA that a test made.
CA_VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "AWS_CA_BUNDLE")
PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment without what would send a client elsewhere or make it trust other CAs."""
    dropped = {name.lower() for name in CA_VARIABLES + PROXY_VARIABLES}
    kept = {name: value for name, value in os.environ.items() if name.lower() not in dropped}
    return kept | dict(extra or {})


_given_ports: set[int] = set()


def free_port() -> int:
    """A port below the ephemeral range, so that no outgoing connection takes it while its server is away.

    None is given twice: whoever asked for it may not listen yet, or not just now.
    """
    for _ in range(1000):
        port = random.randint(20000, 32000)
        if port in _given_ports:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                _given_ports.add(port)
                return port
            except OSError:
                continue
    raise RuntimeError("no free port between 20000 and 32000")


def wait_until(condition: Callable[[], object], what: str, timeout: float = 20.0, pause: float = 0.02):
    """Polls until the condition holds and returns what it gave; fails loudly after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout} s for: {what}")
        time.sleep(pause)


def listens(port: int, host: str = "127.0.0.1") -> bool:
    try:
        with socket.create_connection((host, port), timeout=1):
            return True
    except OSError:
        return False


class Process:
    """One started program. `setpriv --pdeathsig` ends it should the suite be killed."""

    def __init__(self, argv: list[str], log: Path, env: Mapping[str, str] | None = None, cwd: Path | None = None):
        self.argv = argv
        self.log = log
        with log.open("ab") as out:
            self.child = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *argv],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=clean_environment(env),
                cwd=cwd,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self.child.pid

    def wait_until(self, condition: Callable[[], object], what: str, timeout: float = 20.0):
        """Like the function of this name, but gives up at once, with the log, when the process ends."""

        def met():
            found = condition()
            if not found and self.child.poll() is not None:
                raise AssertionError(f"{self.argv[0]} ended with {self.child.returncode}:\n{self.tail()}")
            return found

        return wait_until(met, f"{self.argv[0]}: {what}\n{self.log}", timeout)

    def signal(self, number: int) -> None:
        self.child.send_signal(number)

    def wait(self, timeout: float = 30.0) -> int:
        return self.child.wait(timeout)

    def stop(self, timeout: float = 20.0) -> int:
        if self.child.poll() is None:
            self.child.send_signal(signal.SIGTERM)
        try:
            return self.child.wait(timeout)
        except subprocess.TimeoutExpired:
            self.child.kill()
            return self.child.wait(timeout)

    def kill(self) -> None:
        if self.child.poll() is None:
            self.child.kill()
        self.child.wait(10)

    def tail(self, lines: int = 30) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


class CommandFailed(AssertionError):
    """A client's command ended with an error; holds what it said."""


def run(argv: list[str], env: Mapping[str, str] | None = None, timeout: float = 90.0, text_in: str | None = None) -> str:
    """Runs a client to its end and returns its standard output."""
    done = subprocess.run(
        argv,
        env=clean_environment(env),
        input=text_in,
        stdin=subprocess.DEVNULL if text_in is None else None,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    if done.returncode != 0:
        raise CommandFailed(f"{' '.join(argv)}\nended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout
