#!/usr/bin/env bash
# hone on aarch64 (64-bit ARM) without such a machine:
#
#   scripts/aarch64.sh          compiles the program for it, and runs the tests of the processor's kernels in an emulator
#   scripts/aarch64.sh tests    the tests alone
#
# The NEON kernels are held against their plain twins bit for bit, and `hone selftest`'s numbers against PyTorch's. Nothing is
# said about speed. Needs the Rust target, Debian's cross compiler and QEMU, and fetches what is missing (rustup, apt-get);
# where one of them cannot be had it says which and ends with 3. Builds into target/aarch64.
set -euo pipefail
cd "$(dirname "$0")/.."
what=${1:-all}
target=aarch64-unknown-linux-gnu

without() {
  echo "aarch64: $1 cannot be had here; nothing was run" >&2
  exit 3
}
has_target() { [ -d "$(rustc --print sysroot)/lib/rustlib/$target/lib" ]; }
has_target || timeout 300 rustup target add "$target" >&2 || true
has_target || without "the Rust target $target"
packages=()
command -v aarch64-linux-gnu-gcc >/dev/null || packages+=(gcc-aarch64-linux-gnu libc6-dev-arm64-cross)
command -v qemu-aarch64-static >/dev/null || packages+=(qemu-user-static)
if [ ${#packages[@]} != 0 ]; then
  (apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${packages[@]}") >&2 ||
    without "${packages[*]}"
fi

export CARGO_TARGET_DIR=$PWD/target/aarch64
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER='qemu-aarch64-static -L /usr/aarch64-linux-gnu'
# What is not ours is compiled quickly rather than well.
profile=(--config 'profile.dev.package."*".opt-level=0')
cargo test --quiet "${profile[@]}" --target "$target" -p hone-model --lib -- device::cpu
if [ "$what" = all ]; then
  cargo build --quiet "${profile[@]}" --target "$target" -p hone
  qemu-aarch64-static -L /usr/aarch64-linux-gnu "$CARGO_TARGET_DIR/$target/debug/hone" selftest --benchmark 0
fi
echo "aarch64: compiled and emulated, not run on hardware"
