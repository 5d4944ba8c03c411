#!/usr/bin/env bash
# The end-to-end suite: installs the real parts, builds the release binary, runs the tests against both.
# The tests run once for each kind of store, or those named in E2E_STORES. Arguments go to pytest:
# `E2E_STORES=disk tests/e2e/run.sh -k skopeo`.
set -euo pipefail
cd "$(dirname "$0")/../.."

tests/e2e/install.sh
if [ -z "${HEADPOND_BINARY:-}" ]; then
  cargo build --release --locked
  target=$(cargo metadata --format-version 1 --no-deps | python3 -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])')
  HEADPOND_BINARY=$target/release/headpond
fi
if [ -z "${HEADPOND_CONTRACT_BINARY:-}" ]; then
  HEADPOND_CONTRACT_BINARY=$(cargo test --locked --test bucket_contract --no-run --message-format=json | python3 -c '
import json, sys
built = [line for line in map(json.loads, sys.stdin) if line.get("executable")]
print(next(line["executable"] for line in built if line["target"]["name"] == "bucket_contract"))')
fi
export HEADPOND_BINARY HEADPOND_CONTRACT_BINARY PYTHONDONTWRITEBYTECODE=1
export PATH=$PATH:/usr/sbin:/sbin

no_tests_collected=5
status=$no_tests_collected
for store in ${E2E_STORES:-disk bucket tier}; do
  printf '\ne2e: on %s\n' "$store"
  code=0
  "${E2E_VENV:-target/e2e-venv}/bin/python" -m pytest -c tests/e2e/pytest.ini tests/e2e --store="$store" "$@" || code=$?
  # Not every test that is asked for runs on every store: none is a failure only when it is none on all.
  case $code in
    0) [ "$status" -ne "$no_tests_collected" ] || status=0 ;;
    "$no_tests_collected") [ $# -gt 0 ] || status=1 ;;
    *) status=$code ;;
  esac
done
exit "$status"
