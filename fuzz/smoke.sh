#!/usr/bin/env bash
# Runs every fuzz target for a while: fuzz/smoke.sh [seconds each, 20 unless told]
# Needs a stable Rust and a C++ compiler, neither nightly nor cargo-fuzz: the flags are those that cargo-fuzz passes,
# without the address sanitizer, which safe Rust can do without.
# Inputs begin with fuzz/seeds/ and are kept in fuzz/corpus/; what fails is written to fuzz/artifacts/, and the exit
# status is 1.
set -euo pipefail
cd "$(dirname "$0")"

seconds=${1:-20}
if ! [[ $seconds =~ ^[1-9][0-9]*$ ]]; then
    echo "fuzz/smoke.sh: the time must be a whole number of seconds, not '$seconds'" >&2
    exit 64
fi

coverage=(-sanitizer-coverage-level=4 -sanitizer-coverage-inline-8bit-counters
    -sanitizer-coverage-pc-table -sanitizer-coverage-trace-compares)
flags="-Cpasses=sancov-module --cfg fuzzing"
for flag in "${coverage[@]}"; do flags+=" -Cllvm-args=$flag"; done
# A target triple keeps the flags away from build scripts.
host=$(rustc -vV | sed -n 's/^host: //p')

echo "building the fuzz targets"
RUSTFLAGS=$flags cargo build --release --locked --quiet --target "$host" --target-dir target

failed=()
for seeds in seeds/*/; do
    name=$(basename "$seeds")
    mkdir -p "corpus/$name" "artifacts/$name"
    echo "fuzzing '$name' for $seconds s, from $(find "$seeds" -type f | wc -l) seeds"
    log=artifacts/$name.log
    if "target/$host/release/$name" -max_total_time="$seconds" -max_len=4096 -timeout=10 -rss_limit_mb=1024 \
        -artifact_prefix="artifacts/$name/" "corpus/$name" "$seeds" >"$log" 2>&1; then
        tail -n 1 "$log"
    else
        tail -n 40 "$log" >&2
        failed+=("$name")
    fi
done

if [ ${#failed[@]} -gt 0 ]; then
    echo "fuzz/smoke.sh: found in ${failed[*]}; run the target on the file in fuzz/artifacts/ to see it again" >&2
    exit 1
fi
echo "nothing found"
