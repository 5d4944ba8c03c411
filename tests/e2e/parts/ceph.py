"""Ceph RGW, a real S3 that checks signatures and keeps preconditions: a monitor, an OSD in memory, and gateways to it.

What the OSD holds is lost with it, so only gateways are ever stopped, and what is stored outlives that.
"""

import signal
import subprocess
import uuid
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from parts.edge import Edge
from parts.process import Process, clean_environment, free_port, listens, run, wait_until
from parts.s3 import ACCESS_KEY, SECRET_KEY, Bucket

BUCKET = "headpond-e2e"
# Pools are small and hold one copy. Deleted objects are dropped soon, since they take memory until then.
CONFIG = """[global]
fsid = {fsid}
monmap = {folder}/monmap
public_addr = 127.0.0.1
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
ms_bind_msgr2 = false
ms_bind_ipv6 = false
run_dir = {folder}
crash_dir = {folder}
admin_socket =
pid_file =
log_file =
log_to_stderr = true
err_to_stderr = true
keyring = /dev/null
mon_data = {folder}/mon
mon_allow_pool_size_one = true
mon_max_pg_per_osd = 1000
osd_data = {folder}/osd
osd_objectstore = memstore
memstore_device_bytes = {memory_bytes}
osd_class_update_on_start = false
osd_crush_update_on_start = false
osd_crush_chooseleaf_type = 0
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 8
osd_pool_default_pg_autoscale_mode = off
[client.rgw]
rgw_data = {folder}/rgw
rgw_gc_obj_min_wait = 5
rgw_gc_processor_period = 10
rgw_gc_processor_max_time = 10
"""
MEMORY_BYTES = 12 << 30
GATEWAY = "client.rgw"


class Gateway:
    """One `radosgw`: an address under which the bucket is reached, which can be made to fail."""

    def __init__(self, command: list[str], folder: Path, host: str = "127.0.0.1"):
        self.edge = Edge(free_port(), host=host, connect_to=host)
        self.command = [*command, "--rgw-frontends", f"beast endpoint={self.edge.address}"]
        self.log = folder / f"radosgw-{self.edge.port}.log"
        self.bucket = Bucket(self.edge, BUCKET)
        self.process = self._start()

    def _start(self) -> Process:
        started = Process(self.command, self.log)
        started.wait_until(self.answers, "answers", timeout=60)
        return started

    def answers(self) -> bool:
        return listens(self.edge.port, self.edge.connect_to)

    def stop(self) -> None:
        """Connections break off, new ones are refused."""
        self.process.kill()

    def hang(self) -> None:
        """Connections are taken, by the kernel, and nothing is ever answered."""
        self.process.signal(signal.SIGSTOP)

    def come_back(self) -> None:
        if self.process.child.poll() is None:
            self.process.signal(signal.SIGCONT)
        else:
            self.process = self._start()

    def seen(self, part: str = "") -> list[str]:
        """Lines of its access log, such as `"GET /bucket/key HTTP/1.1" 200 …`."""
        lines = self.log.read_text(errors="replace").splitlines()
        return [line for line in lines if "beast: " in line and part in line]


class Ceph:
    """A running cluster with one user, one bucket and one gateway."""

    def __init__(self, folder: Path):
        self.folder = folder
        for name in ("mon", "osd", "rgw"):
            (folder / name).mkdir(parents=True)
        self.config = folder / "ceph.conf"
        fsid = str(uuid.uuid4())
        self.config.write_text(CONFIG.format(fsid=fsid, folder=folder, memory_bytes=MEMORY_BYTES))
        self.monitor = self._start_monitor(fsid)
        self.osd = self._start_osd()
        self.add_user("e2e", ACCESS_KEY, SECRET_KEY)
        self.gateways: list[Gateway] = []
        self.bucket = self.gateway().bucket
        self.bucket.create()

    def gateway(self, host: str = "127.0.0.1") -> Gateway:
        """Another way to the same bucket, whose failures are its own."""
        made = Gateway(self._command("radosgw", "-n", GATEWAY), self.folder, host)
        self.gateways.append(made)
        return made

    def add_user(self, name: str, access_key: str, secret_key: str) -> None:
        user = [f"--uid={name}", f"--display-name={name}", "--access-key", access_key, "--secret-key", secret_key]
        self._ask("radosgw-admin", "-n", GATEWAY, "user", "create", *user)

    def _run(self, *command: str) -> str:
        return run([command[0], "-c", str(self.config), *command[1:]])

    def _ask(self, *command: str) -> None:
        """A monitor refuses, now and then, what comes from a client before it has the monitor's map."""
        wait_until(lambda: self._accepts(*command), " ".join(command), timeout=60, pause=0.1)

    def _accepts(self, *command: str) -> bool:
        argv = [command[0], "-c", str(self.config), *command[1:]]
        return subprocess.run(argv, env=clean_environment(), capture_output=True, check=False).returncode == 0

    def _command(self, program: str, *arguments: str) -> list[str]:
        return [program, "-f", "-c", str(self.config), *arguments]

    def _start_monitor(self, fsid: str) -> Process:
        monmap, address = str(self.folder / "monmap"), f"[v1:127.0.0.1:{free_port()}]"
        run(["monmaptool", "--create", "--fsid", fsid, "--addv", "a", address, monmap])
        self._run("ceph-mon", "-i", "a", "--mkfs", "--monmap", monmap)
        started = Process(self._command("ceph-mon", "-i", "a"), self.folder / "ceph-mon.log")
        started.wait_until(lambda: self._accepts("ceph", "--connect-timeout", "5", "fsid"), "answers", timeout=60)
        return started

    def _start_osd(self) -> Process:
        identity = str(uuid.uuid4())
        self._ask("ceph", "osd", "new", identity)
        self._ask("ceph", "osd", "crush", "add", "osd.0", "1", "root=default")
        self._run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", identity)
        return Process(self._command("ceph-osd", "-i", "0"), self.folder / "ceph-osd.log")

    def stop(self) -> None:
        for process in (*(gateway.process for gateway in self.gateways), self.osd, self.monitor):
            process.kill()


class StartingCeph:
    """Started in the background at the first word, waited for by the first who needs it."""

    def __init__(self, folder: Path):
        self._pool = ThreadPoolExecutor(1)
        self._started: Future[Ceph] = self._pool.submit(Ceph, folder)

    def get(self) -> Ceph:
        return self._started.result(120)

    def stop(self) -> None:
        self._pool.shutdown()
        if self._started.exception() is None:
            self._started.result().stop()
