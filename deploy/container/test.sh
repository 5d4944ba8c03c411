#!/usr/bin/env bash
# Checks the image of oci-layout.sh: the same input gives the same bytes, a registry takes it, and it serves as an
# unprivileged user on a read-only root. Needs root, runc, skopeo, docker-registry, curl and python3. Bounded, and cleans up.
#
#   test.sh [BINARY]        default: $HEADPOND_BINARY, else the release build
set -euo pipefail
cd "$(dirname "$0")/../.."
export PATH=$PATH:/usr/sbin:/sbin

say() { printf 'image: %s\n' "$*"; }
fail() {
  printf 'image: FAILED: %s\n' "$*" >&2
  exit 1
}

binary=${1:-${HEADPOND_BINARY:-}}
if [ -z "$binary" ]; then
  cargo build --release --locked
  binary=$(cargo metadata --format-version 1 --no-deps | python3 -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])')/release/headpond
fi
for command in runc skopeo docker-registry curl python3; do
  command -v "$command" >/dev/null || fail "$command is not installed; tests/e2e/install.sh installs it"
done
[ "$(id -u)" -eq 0 ] || fail 'needs root, to start a container'
case $(uname -m) in x86_64) here=amd64 other=arm64 machine=b700 ;; *) here=arm64 other=amd64 machine=3e00 ;; esac

work=$(mktemp -d)
container=headpond-image-$$
registry_pid=
clean_up() {
  runc kill "$container" KILL >/dev/null 2>&1 || true
  sleep 0.2
  runc delete -f "$container" >/dev/null 2>&1 || true
  [ -z "$registry_pid" ] || kill "$registry_pid" 2>/dev/null || true
  rm -rf "$work"
}
trap clean_up EXIT

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
# within SECONDS COMMAND…: tries it until it succeeds.
within() {
  local deadline=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $deadline ] || return 1
    sleep 0.1
  done
}

# A static program for the other architecture, as far as its head tells, to see an index of two.
printf '\x7fELF\x02\x01\x01%057d' 0 | tr 0 '\0' >"$work/foreign"
printf "\\x${machine:0:2}\\x${machine:2:2}" | dd of="$work/foreign" bs=1 seek=18 conv=notrunc status=none

say "layout of $binary"
deploy/container/oci-layout.sh "$work/one" test "$here=$binary" "$other=$work/foreign" >/dev/null
sleep 1.1
deploy/container/oci-layout.sh "$work/two" test "$here=$binary" "$other=$work/foreign" >/dev/null
diff -r "$work/one" "$work/two" >/dev/null || fail 'the same input gave other bytes'
! deploy/container/oci-layout.sh "$work/three" test "$other=$binary" 2>/dev/null || fail 'a binary of another architecture was taken'

say 'copied into a registry, and back'
registry_port=$(free_port)
printf 'version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: "127.0.0.1:%s"}\n' "$work/registry" "$registry_port" >"$work/registry.yml"
docker-registry serve "$work/registry.yml" >"$work/registry.log" 2>&1 &
registry_pid=$!
within 10 curl -fsS "http://127.0.0.1:$registry_port/v2/" || fail "docker-registry did not start: $(cat "$work/registry.log")"
timeout 60 skopeo copy -q --insecure-policy --all --dest-tls-verify=false "oci:$work/one:test" "docker://127.0.0.1:$registry_port/headpond:test"
timeout 60 skopeo copy -q --insecure-policy --override-arch "$here" --src-tls-verify=false "docker://127.0.0.1:$registry_port/headpond:test" "dir:$work/image"

say 'run by runc: user 65532, read-only root, no capabilities'
client_port=$(free_port) admin_port=$(free_port)
mkdir -p "$work/bundle/rootfs" "$work/store"
chown 65532:65532 "$work/store"
chmod 755 "$work" "$work/bundle"
python3 - "$work" "$client_port" "$admin_port" "$registry_port" <<'PY'
import json, pathlib, subprocess, sys
work, client, admin, registry = pathlib.Path(sys.argv[1]), *sys.argv[2:]
manifest = json.loads((work / "image/manifest.json").read_text())
blob = lambda descriptor: work / "image" / descriptor["digest"].removeprefix("sha256:")
for layer in manifest["layers"]:
    subprocess.run(["tar", "-xzpf", blob(layer), "--numeric-owner", "-C", work / "bundle/rootfs"], check=True)
config = json.loads(blob(manifest["config"]).read_text())["config"]
assert config["User"] == "65532:65532" and config["Entrypoint"] == ["/headpond"] and config["Cmd"] == ["serve"], config
(work / "headpond.yaml").write_text(f'rules: [{{prefix: local, upstream: "http://127.0.0.1:{registry}"}}]\n')
(work / "headpond.yaml").chmod(0o644)
environment = [e for e in config["Env"] if not e.startswith(("HEADPOND_LISTEN=", "HEADPOND_ADMIN="))]
environment += [f"HEADPOND_LISTEN=127.0.0.1:{client}", f"HEADPOND_ADMIN=127.0.0.1:{admin}", "HEADPOND_CONFIG=/headpond.yaml"]
bind = lambda source, to, *options: {"destination": to, "type": "bind", "source": str(source), "options": ["bind", *options]}
(work / "bundle/rootfs/headpond.yaml").touch()
for directory in ("proc", "dev"):
    (work / "bundle/rootfs" / directory).mkdir(exist_ok=True)
spec = {
    "ociVersion": "1.0.2",
    "root": {"path": "rootfs", "readonly": True},
    "process": {
        "user": {"uid": 65532, "gid": 65532}, "cwd": "/", "env": environment, "noNewPrivileges": True,
        "args": config["Entrypoint"] + config["Cmd"], "capabilities": {},
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1024, "hard": 1024}],
    },
    "mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
        bind(work / "store", "/var/lib/headpond", "rw"),
        bind(work / "headpond.yaml", "/headpond.yaml", "ro"),
    ],
    # The machine's network, so that the test reaches it and it reaches the registry.
    "linux": {"namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount")]},
}
(work / "bundle/config.json").write_text(json.dumps(spec))
PY
(cd "$work/bundle" && exec timeout 120 runc run "$container") >"$work/headpond.out" 2>"$work/headpond.log" &
within 20 curl -fsS "http://127.0.0.1:$admin_port/readyz" || fail "it does not serve: $(cat "$work/headpond.out" "$work/headpond.log")"

runc exec "$container" /headpond healthcheck || fail 'the health check fails'
# Through the cache comes the image itself.
timeout 60 skopeo copy -q --insecure-policy --override-arch "$here" --src-tls-verify=false "docker://127.0.0.1:$client_port/local/headpond:test" "dir:$work/through"
cmp "$work/image/manifest.json" "$work/through/manifest.json" || fail 'another manifest came through the cache'
[ -n "$(find "$work/store/blobs" -type f -user 65532)" ] || fail 'nothing was stored, or by another user'
runc kill "$container" TERM
gone() { ! curl -fsS "http://127.0.0.1:$admin_port/healthz"; }
within 20 gone || fail 'it does not end on SIGTERM'
say 'serves, stores and ends'
