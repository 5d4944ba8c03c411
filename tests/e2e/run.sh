#!/usr/bin/env bash
# The end-to-end suite: installs the real parts, builds the release binary, runs the tests against both.
# Arguments go to pytest: `tests/e2e/run.sh -k skopeo`.
set -euo pipefail
cd "$(dirname "$0")/../.."

tests/e2e/install.sh
if [ -z "${HEADPOND_BINARY:-}" ]; then
  cargo build --release --locked
  target=$(cargo metadata --format-version 1 --no-deps | python3 -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])')
  HEADPOND_BINARY=$target/release/headpond
fi
export HEADPOND_BINARY PYTHONDONTWRITEBYTECODE=1
export PATH=$PATH:/usr/sbin:/sbin
exec "${E2E_VENV:-target/e2e-venv}/bin/python" -m pytest -c tests/e2e/pytest.ini tests/e2e "$@"
