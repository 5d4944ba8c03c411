"""The Compose files, read by Compose itself, and run as they say."""

import os
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from parts.container import ROOT, Container, ContainerImage
from parts.edge import Edge, request
from parts.headpond import binary, rules_for
from parts.process import free_port, run

pytestmark = pytest.mark.own_store
FOLDER = ROOT / "deploy/compose"
VARIANTS = {"disk": ["compose.yaml"], "s3": ["compose.yaml", "compose.s3.yaml"]}


def service(variant: str) -> dict:
    """The one service, as Compose understands it."""
    files = [option for name in VARIANTS[variant] for option in ("--file", str(FOLDER / name))]
    # It says itself what is preset, so that nothing of this machine goes in.
    env = {"HEADPOND_IMAGE": "", "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
    found = yaml.safe_load(run(["docker-compose", *files, "config"], env))
    assert set(found["volumes"]) == {"store"}
    (only,) = found["services"].values()
    return only


def mounted(found: dict) -> dict[str, str]:
    """What is mounted where."""
    parts = (volume.split(":") for volume in found["volumes"])
    return {destination: source for source, destination, *_ in parts}


@pytest.mark.parametrize("variant", VARIANTS)
def test_service_is_hardened_and_for_this_machine_only(variant):
    found = service(variant)
    assert found["read_only"] is True and found["user"] == "65532:65532"
    assert found["cap_drop"] == ["ALL"] and found["security_opt"] == ["no-new-privileges:true"]
    assert {port.rsplit(":", 1)[0] for port in found["ports"]} == {"127.0.0.1:5000", "127.0.0.1:5001"}
    assert found["stop_grace_period"] == "50s"


@pytest.mark.parametrize("variant", VARIANTS)
def test_service_that_was_sent_sighup_is_started_again_after_a_crash(variant):
    """As Docker sees it: any signal but a named stop signal is somebody who stops the container by hand."""
    found = service(variant)
    assert found["restart"] == "always" and found["stop_signal"] == "SIGTERM"


def test_image_names_its_stop_signal_whoever_made_it(container_image: ContainerImage):
    assert container_image.config["StopSignal"] == "SIGTERM"
    assert "\nSTOPSIGNAL SIGTERM\n" in (ROOT / "deploy/container/Dockerfile").read_text()


def test_image_is_of_this_version():
    package = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]
    assert service("disk")["image"] == f"headpond:{package['version']}"


def test_bucket_variant_has_its_own_configuration_and_the_keys():
    found = service("s3")
    assert mounted(found)["/etc/headpond/headpond.yaml"].endswith("/headpond.s3.yaml")
    assert found["environment"]["AWS_SECRET_ACCESS_KEY"] == "secret"
    assert "AWS_SECRET_ACCESS_KEY" not in service("disk")["environment"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_configuration_passes_check_config(variant):
    file = mounted(service(variant))["/etc/headpond/headpond.yaml"]
    assert ": no problems" in run([str(binary()), "check-config", "--config", file])


def test_service_serves_and_ends_in_time(container_image: ContainerImage, proxy, publish: Callable, tmp_path: Path):
    found = service("disk")
    store, config = tmp_path / "store", tmp_path / "headpond.yaml"
    # Compose makes a volume from what the image has there.
    shutil.copytree(container_image.root / "var/lib/headpond", store)
    shutil.chown(store, 65532, 65532)
    tmp_path.chmod(0o755)
    written = yaml.safe_load(Path(mounted(found)["/etc/headpond/headpond.yaml"]).read_text())
    config.write_text(yaml.safe_dump(written | {"rules": rules_for(proxy.edge)}))
    edge, admin = Edge(free_port()), Edge(free_port())
    env = container_image.env | found["environment"]
    assert env["HEADPOND_LISTEN"] == "0.0.0.0:5000" and env["HEADPOND_ADMIN"] == "0.0.0.0:5001"
    running = Container(
        container_image,
        tmp_path,
        name=f"headpond-compose-{os.getpid()}",
        env=env | {"HEADPOND_LISTEN": edge.address, "HEADPOND_ADMIN": admin.address},
        arguments=container_image.config["Cmd"],
        user=(65532, 65532),
        mounts={"/etc/headpond/headpond.yaml": config, "/var/lib/headpond": store},
        writable={"/var/lib/headpond"},
    )
    process = running.start()
    try:
        process.wait_until(lambda: is_ready(admin), "is ready")
        image = publish()
        path = f"/v2/docker-hub/{image.repository}/manifests/{image.tag}"
        assert request(edge, path).digest == image.digest
        running.signal("TERM")
        assert process.wait(50) == 0
    finally:
        if process.child.poll() is None:
            running.signal("KILL")
            process.wait()


def is_ready(admin: Edge) -> bool:
    try:
        return request(admin, "/readyz", timeout=5).status == 200
    except OSError:
        return False
