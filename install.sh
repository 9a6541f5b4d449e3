#!/usr/bin/env bash
# Installs timonel on this machine and starts it: as a systemd service, or in the background where there is no systemd.
# With TIMONEL_URL and TIMONEL_TOKEN set, the machine joins that server as an agent. Run again, it changes nothing.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
bin=/usr/local/bin/timonel
data=${TIMONEL_DATA_DIR:-/var/lib/timonel}
kubeconfig=/etc/timonel/kubeconfig.yaml
role=server
[ -n "${TIMONEL_URL:-}" ] && role=agent

say() { printf '%s\n' "$*" >&2; }
fail() { say "error: $*"; exit 1; }

[ "$(id -u)" = 0 ] || fail "run it as root: sudo ./install.sh"
[ "$(uname -sm)" = "Linux x86_64" ] || fail "only Linux on x86-64 is supported, this is $(uname -sm)"
if [ "$role" = agent ] && [ -z "${TIMONEL_TOKEN:-}" ]; then
  fail "TIMONEL_URL is set but TIMONEL_TOKEN isn't: take it from the server, with: sudo timonel token"
fi

# The service rules are written with nft; the installer, uninstall and tests use ip.
need=()
command -v nft >/dev/null || need+=(nftables)
command -v ip >/dev/null || need+=(iproute2)
if [ ${#need[@]} -gt 0 ]; then
  say "installing ${need[*]}"
  if command -v apt-get >/dev/null; then apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${need[@]}" >/dev/null
  elif command -v dnf >/dev/null; then dnf install -y -q "${need[@]}" >/dev/null
  else fail "install ${need[*]} with this system's package manager first"; fi
fi

source=$here/timonel
if [ ! -x "$source" ] || [ -d "$source" ]; then
  command -v cargo >/dev/null || PATH=$PATH:${HOME}/.cargo/bin
  command -v cargo >/dev/null || fail "there is no release binary beside install.sh and no Rust toolchain: install one from rustup.rs"
  say "building the release binary; this takes some minutes the first time"
  target=${CARGO_TARGET_DIR:-$(cd "$here" && cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')}
  (cd "$here" && cargo build --release --locked -p timonel)
  source=$target/release/timonel
fi
changed=0
if ! cmp -s "$source" "$bin"; then
  install -m 0755 "$source" "$bin.new" && mv "$bin.new" "$bin"
  changed=1
fi
[ -e /usr/local/bin/kubectl ] || command -v kubectl >/dev/null || ln -s timonel /usr/local/bin/kubectl
"$bin" check >&2 || fail "this machine lacks what is marked missing above"

if [ -d /run/systemd/system ]; then
  unit=/etc/systemd/system/timonel.service
  new=$(cat <<UNIT
[Unit]
Description=timonel, a Kubernetes
After=network-online.target
Wants=network-online.target
# It is started again however often it ends.
StartLimitIntervalSec=0

[Service]
ExecStart=$bin $role
EnvironmentFile=-/etc/timonel/environment
# Containers live on when the service stops or restarts.
KillMode=process
Delegate=yes
Restart=always
RestartSec=1
LimitNOFILE=1048576
TasksMax=infinity
# The kernel takes pods first when memory runs out (upstream's kubelet has the same).
OOMScoreAdjust=-999
# Pods that end with the machine have 30 s for it (--shutdown-grace-period).
TimeoutStopSec=45

[Install]
WantedBy=multi-user.target
UNIT
)
  mkdir -p /etc/timonel
  if [ "$role" = agent ]; then
    (umask 077; printf 'TIMONEL_URL=%s\nTIMONEL_TOKEN=%s\n' "$TIMONEL_URL" "$TIMONEL_TOKEN" > /etc/timonel/environment)
  fi
  if [ "$(cat "$unit" 2>/dev/null)" != "$new" ]; then printf '%s\n' "$new" > "$unit"; chmod 600 "$unit"; systemctl daemon-reload; changed=1; fi
  systemctl enable -q timonel.service
  if [ $changed = 1 ]; then systemctl restart timonel.service; else systemctl start timonel.service; fi
else
  pidfile=/run/timonel.pid
  running() { [ -s $pidfile ] && [ "$(readlink "/proc/$(cat $pidfile)/exe" 2>/dev/null | sed 's/ (deleted)$//')" = "$bin" ]; }
  if running && [ $changed = 1 ]; then
    kill "$(cat $pidfile)"
    for _ in $(seq 100); do running || break; sleep 0.05; done
  fi
  if ! running; then
    mkdir -p -m 0700 "$data"
    # The process puts its log aside itself when it has grown large.
    (umask 077; touch "$data/timonel.log")
    setsid "$bin" "$role" >>"$data/timonel.log" 2>&1 </dev/null &
    echo $! > $pidfile
  fi
fi

if [ "$role" = agent ]; then
  say "this machine joins $TIMONEL_URL; look on the server: kubectl get nodes"
  exit 0
fi
say "waiting for the node"
for _ in $(seq 300); do
  if "$bin" kubectl --kubeconfig $kubeconfig get nodes 2>/dev/null | awk 'NR > 1 && $2 == "Ready" { found = 1 } END { exit !found }'; then
    say "the cluster is ready. Next:"
    say "  export KUBECONFIG=$kubeconfig"
    say "  kubectl apply -f $here/examples/web.yaml"
    say "  kubectl get statefulset,pod,pvc         # two replicas; their image is built in, so no network is needed"
    say "  kubectl exec web-0 -- get http://web/   # one of them answers; in a browser: http://localhost:30080/"
    say "other machines join with: TIMONEL_URL=https://THIS-HOST:6443 TIMONEL_TOKEN=\$(sudo timonel token) sudo -E ./install.sh"
    exit 0
  fi
  sleep 0.2
done
fail "the node didn't become ready within a minute; see $data/timonel.log or: journalctl -u timonel"
