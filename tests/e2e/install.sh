#!/usr/bin/env bash
# Installs the real parts the end-to-end suite runs against: packages by apt, Python ones by pip into a venv.
# Starts no service, and is quick when everything is there. Fails, and says which, if a part cannot be had.
set -euo pipefail
cd "$(dirname "$0")/../.."

packages=(
  docker-registry apache2-utils faketime skopeo umoci buildah busybox-static containerd runc docker.io docker-compose
  podman conmon netavark aardvark-dns nginx wrk python3 python3-venv openssl ca-certificates util-linux iproute2
  ceph-mon ceph-mgr ceph-osd ceph-common radosgw
)
commands=(
  docker-registry htpasswd skopeo umoci buildah busybox containerd ctr runc dockerd /usr/bin/docker docker-compose
  podman conmon nginx wrk python3 openssl setpriv unshare ip
  ceph-mon ceph-mgr ceph-osd monmaptool radosgw radosgw-admin
)
venv=${E2E_VENV:-target/e2e-venv}
policy=/usr/sbin/policy-rc.d

say() { printf 'install: %s\n' "$*" >&2; }

missing_packages() {
  local name
  for name in "${packages[@]}"; do
    dpkg-query -W -f='${Status}' "$name" 2>/dev/null | grep -q 'install ok installed' || printf '%s\n' "$name"
  done
}

# apt asks policy-rc.d before it starts a service: 101 means "do not".
forbid_services() {
  if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
    trap 'rm -f "$policy"' EXIT
  fi
}

install_packages() {
  local missing
  mapfile -t missing < <(missing_packages)
  if [ "${#missing[@]}" -eq 0 ]; then
    return
  fi
  if [ "$(id -u)" -ne 0 ]; then
    say "needs root to install: ${missing[*]}"
    exit 1
  fi
  say "packages: ${missing[*]}"
  forbid_services
  export DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1
  apt-get -qq update
  apt-get -qq install -y --no-install-recommends "${missing[@]}" >/dev/null
}

check_commands() {
  local name lost=()
  for name in "${commands[@]}"; do
    PATH=$PATH:/usr/sbin:/sbin command -v "$name" >/dev/null || lost+=("$name")
  done
  if [ "${#lost[@]}" -gt 0 ]; then
    say "not to be had: ${lost[*]}"
    exit 1
  fi
}

# The stamp holds the requirements it was made from, so that a changed list makes the venv anew.
make_venv() {
  if cmp -s tests/e2e/requirements.txt "$venv/requirements.txt" && "$venv/bin/python" -c 'import pytest, grpc, helm_python, kubernetes_validate, moto.server' 2>/dev/null; then
    return
  fi
  say "venv: $venv"
  rm -rf "$venv"
  mkdir -p "$(dirname "$venv")"
  /usr/bin/python3 -m venv "$venv"
  "$venv/bin/pip" --quiet --disable-pip-version-check install --only-binary :all: -r tests/e2e/requirements.txt
  cp tests/e2e/requirements.txt "$venv/requirements.txt"
}

install_packages
check_commands
make_venv
