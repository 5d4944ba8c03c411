#!/usr/bin/env bash
# Measures the release binary beside docker-registry in proxy mode and nginx with static files. Everything is on loopback, and
# only what this starts is ended. Prints a table; nothing is pass or fail.
#
#   run.sh [--rounds N] [--seconds N] [--quick] [--only WORD]
#
# BENCH_DIR holds some 5 GiB while it runs (default: a temporary directory). HEADPOND_BINARY measures another binary.
set -euo pipefail
cd "$(dirname "$0")/../.."
export PATH=$PATH:/usr/sbin:/sbin

packages=(docker-registry nginx-light wrk hey curl python3)
commands=(docker-registry nginx wrk hey curl python3)
missing=()
for index in "${!commands[@]}"; do
  command -v "${commands[index]}" >/dev/null || missing+=("${packages[index]}")
done
if [ ${#missing[@]} -gt 0 ]; then
  [ "$(id -u)" -eq 0 ] || { echo "bench: needs root to install: ${missing[*]}" >&2; exit 1; }
  echo "bench: installing ${missing[*]}" >&2
  # 101 from policy-rc.d means: start no service.
  if [ ! -e /usr/sbin/policy-rc.d ]; then
    printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
    chmod 755 /usr/sbin/policy-rc.d
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
  fi
  DEBIAN_FRONTEND=noninteractive apt-get -qq update
  DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "${missing[@]}" >/dev/null
fi

if [ -z "${HEADPOND_BINARY:-}" ]; then
  cargo build --release --locked
  target=$(cargo metadata --format-version 1 --no-deps | python3 -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])')
  HEADPOND_BINARY=$target/release/headpond
fi
export HEADPOND_BINARY
ulimit -n "$(ulimit -Hn)"
python3 benches/peers/measure.py "$@"
