#!/bin/sh
# Fuzzes one target, or all: scripts/fuzz.sh [TARGET] [SECONDS], or for all with another time scripts/fuzz.sh '' SECONDS.
# What was found stands under fuzz/corpus and fuzz/artifacts.
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
host=$(rustc -vV | sed -n 's/^host: //p')
cargo build --release --target "$host" --target-dir "$target_dir" ${1:+--bin "$1"}
for file in fuzz_targets/${1:-*}.rs; do
    target=$(basename "$file" .rs)
    mkdir -p "corpus/$target" artifacts
    echo "fuzzing $target for $seconds s" >&2
    "$target_dir/$host/release/$target" -max_total_time="$seconds" -max_len=2048 -timeout=20 -rss_limit_mb=1500 \
        -artifact_prefix="artifacts/$target-" "corpus/$target"
done
