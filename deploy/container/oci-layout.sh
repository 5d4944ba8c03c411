#!/usr/bin/env bash
# Makes the container image as an OCI image layout, without an engine, from binaries that are there.
#
#   oci-layout.sh OUT_DIR VERSION amd64=PATH [arm64=PATH]
#   skopeo copy --all oci:OUT_DIR:VERSION docker://registry/headpond:VERSION
#
# The same binaries give the same bytes: times are SOURCE_DATE_EPOCH (else 0), owners, order and COMPRESSION_LEVEL (9) are
# fixed. A binary that is linked dynamically brings its libraries along, which only works for the architecture of this
# machine; others must be static.
# Needs bash, coreutils, tar and gzip; ldd where a binary is dynamic.
set -euo pipefail
export LC_ALL=C

certificates=${CA_CERTIFICATES:-/etc/ssl/certs/ca-certificates.crt}
epoch=${SOURCE_DATE_EPOCH:-0}
level=${COMPRESSION_LEVEL:-9}
user=65532

fail() {
  printf 'oci-layout: %s\n' "$*" >&2
  exit 1
}

[ $# -ge 3 ] || fail 'usage: oci-layout.sh OUT_DIR VERSION amd64=PATH [arm64=PATH]'
out=$1 version=$2
shift 2
[[ $version =~ ^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$ ]] || fail "$version is no tag"
[ ! -e "$out" ] || [ -f "$out/oci-layout" ] || fail "$out is there and is no image layout"
[ -s "$certificates" ] || fail "no CA certificates in $certificates; set CA_CERTIFICATES, or install ca-certificates"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
layout=$work/layout
mkdir -p "$layout/blobs/sha256"
created=$(date -u -d "@$epoch" +%Y-%m-%dT%H:%M:%SZ)

# number FILE OFFSET BYTES: an unsigned little-endian number.
number() { od -An -v -t "u$3" -j "$2" -N "$3" "$1" | tr -d ' '; }

# elf_architecture FILE: amd64 or arm64, by e_machine.
elf_architecture() {
  [ "$(od -An -v -t x1 -N 6 "$1" | tr -d ' \n')" = 7f454c460201 ] || fail "$1 is no 64-bit ELF program"
  case $(number "$1" 18 2) in
    62) echo amd64 ;;
    183) echo arm64 ;;
    *) fail "$1 is for another machine" ;;
  esac
}

# is_dynamic FILE: whether a program header is PT_INTERP.
is_dynamic() {
  local at size count index
  at=$(number "$1" 32 8) size=$(number "$1" 54 2) count=$(number "$1" 56 2)
  for ((index = 0; index < count; index++)); do
    [ "$(number "$1" $((at + index * size)) 4)" -ne 3 ] || return 0
  done
  return 1
}

host_architecture() {
  case $(uname -m) in
    x86_64) echo amd64 ;;
    aarch64) echo arm64 ;;
    *) uname -m ;;
  esac
}

# add_libraries PROGRAM ROOT: the loader and every library, where the loader looks for them.
add_libraries() {
  local list library
  list=$(ldd "$1") || fail "ldd cannot read $1"
  ! grep -q 'not found' <<<"$list" || fail "libraries of $1 are missing here: $(grep 'not found' <<<"$list")"
  while read -r library; do
    mkdir -p "$2$(dirname "$library")"
    cp -L "$library" "$2$library"
    chmod 755 "$2$library"
  done < <(sed -nE 's#^[^/]*(/[^ ]+) \(0x.*#\1#p' <<<"$list" | sort -u)
}

# pack ROOT TAR [OWNER PATH]: everything owned by root, but PATH, which is OWNER's and comes last.
pack() {
  local how=(--format=ustar --numeric-owner --sort=name --mtime="@$epoch" --no-recursion -C "$1")
  (cd "$1" && find . -mindepth 1 ! -path "./${4:-.}" -print0) >"$work/files"
  tar -cf "$2" "${how[@]}" --owner=0 --group=0 --null -T <(sort -z "$work/files")
  [ $# -lt 4 ] || tar -rf "$2" "${how[@]}" --owner="$3" --group="$3" "./$4"
}

# add FILE: moves it among the blobs; sets $digest and $size.
add() {
  digest=$(sha256sum "$1" | cut -d' ' -f1)
  size=$(stat -c %s "$1")
  mv "$1" "$layout/blobs/sha256/$digest"
}

# layer TAR: adds it compressed; sets $digest, $size and $diff_id.
layer() {
  diff_id=$(sha256sum "$1" | cut -d' ' -f1)
  gzip -n "-$level" <"$1" >"$1.gz"
  add "$1.gz"
}

# What every architecture has: certificates, the user's name, the one directory that is written to.
base=$work/base
mkdir -p "$base/etc/ssl/certs" "$base/var/lib/headpond"
cp -L "$certificates" "$base/etc/ssl/certs/ca-certificates.crt"
printf 'root:x:0:0:root:/:/sbin/nologin\nheadpond:x:%s:%s:headpond:/:/sbin/nologin\n' $user $user >"$base/etc/passwd"
printf 'root:x:0:\nheadpond:x:%s:\n' $user >"$base/etc/group"
printf 'hosts: files dns\n' >"$base/etc/nsswitch.conf"
find "$base" -type d -exec chmod 755 {} +
find "$base" -type f -exec chmod 644 {} +
pack "$base" "$work/base.tar" $user var/lib/headpond
layer "$work/base.tar"
base_digest=$digest base_size=$size base_diff_id=$diff_id

manifests=()
for pair in "$@"; do
  architecture=${pair%%=*} program=${pair#*=}
  [[ $pair == *=* && -f $program ]] || fail "$pair is not ARCHITECTURE=PATH of a file"
  actual=$(elf_architecture "$program")
  [ "$actual" = "$architecture" ] || fail "$program is built for $actual, not for $architecture"
  root=$work/$architecture
  mkdir "$root" || fail "$architecture is given twice"
  cp "$program" "$root/headpond"
  chmod 755 "$root/headpond"
  if is_dynamic "$program"; then
    [ "$architecture" = "$(host_architecture)" ] ||
      fail "$program is linked dynamically, and its libraries are not on this machine. Build it for ${architecture/amd64/x86_64}-unknown-linux-musl" \
        "(aarch64 for arm64), build it with RUSTFLAGS='-C target-feature=+crt-static', or use the Dockerfile"
    add_libraries "$program" "$root"
  fi
  find "$root" -type d -exec chmod 755 {} +
  pack "$root" "$work/$architecture.tar"
  layer "$work/$architecture.tar"
  program_digest=$digest program_size=$size program_diff_id=$diff_id

  # `Healthcheck` is Docker's, beyond the specification; others ignore it.
  cat >"$work/config.json" <<JSON
{"created":"$created","architecture":"$architecture","os":"linux","config":{"User":"$user:$user","ExposedPorts":{"5000/tcp":{},"5001/tcp":{}},"Env":["PATH=/","HEADPOND_LISTEN=0.0.0.0:5000","HEADPOND_ADMIN=0.0.0.0:5001","HEADPOND_STORAGE=/var/lib/headpond"],"Entrypoint":["/headpond"],"Cmd":["serve"],"Volumes":{"/var/lib/headpond":{}},"WorkingDir":"/","StopSignal":"SIGTERM","Labels":{"org.opencontainers.image.title":"headpond","org.opencontainers.image.version":"$version","org.opencontainers.image.licenses":"Apache-2.0"},"Healthcheck":{"Test":["CMD","/headpond","healthcheck"],"Interval":30000000000,"Timeout":5000000000,"StartPeriod":10000000000}},"rootfs":{"type":"layers","diff_ids":["sha256:$base_diff_id","sha256:$program_diff_id"]},"history":[{"created":"$created","created_by":"certificates, user, store"},{"created":"$created","created_by":"headpond $version"}]}
JSON
  add "$work/config.json"
  cat >"$work/manifest.json" <<JSON
{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:$digest","size":$size},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"sha256:$base_digest","size":$base_size},{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"sha256:$program_digest","size":$program_size}]}
JSON
  add "$work/manifest.json"
  manifests+=("{\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\",\"digest\":\"sha256:$digest\",\"size\":$size,\"platform\":{\"architecture\":\"$architecture\",\"os\":\"linux\"}}")
done

listed=$(IFS=,; printf '%s' "${manifests[*]}")
printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[%s]}\n' "$listed" >"$work/images.json"
add "$work/images.json"
printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"mediaType":"application/vnd.oci.image.index.v1+json","digest":"sha256:%s","size":%s,"annotations":{"org.opencontainers.image.ref.name":"%s"}}]}\n' \
  "$digest" "$size" "$version" >"$layout/index.json"
printf '{"imageLayoutVersion":"1.0.0"}\n' >"$layout/oci-layout"

rm -rf "$out"
mkdir -p "$(dirname "$out")"
mv "$layout" "$out"
printf '%s: image sha256:%s, %s\n' "$out" "$digest" "next: skopeo copy --all oci:$out:$version docker://…"
