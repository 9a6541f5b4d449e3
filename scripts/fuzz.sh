#!/bin/sh
# Fuzzes one target, or all: scripts/fuzz.sh [TARGET] [SECONDS]. What was found stands under fuzz/corpus and fuzz/artifacts.
# No nightly compiler is needed: coverage comes from LLVM's passes, and there is no address sanitizer, as the targets are
# safe Rust.
set -eu
cd "$(dirname "$0")/../fuzz"
seconds=${2:-60}
RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1"
export RUSTFLAGS
target_dir=${CARGO_TARGET_DIR:-target}
cargo build --release --target "$(rustc -vV | sed -n 's/^host: //p')" --target-dir "$target_dir"
for target in ${1:-patch yaml protobuf texts fields objects cel http kubelet dns rules layers registry}; do
    mkdir -p "corpus/$target" artifacts
    echo "fuzzing $target for $seconds s" >&2
    "$target_dir/$(rustc -vV | sed -n 's/^host: //p')/release/$target" -max_total_time="$seconds" -max_len=2048 \
        -artifact_prefix="artifacts/$target-" "corpus/$target"
done
