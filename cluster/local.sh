#!/usr/bin/env bash
# A Ray cluster on this machine: a head and a worker node, for trying out jobs.
#
#   cluster/local.sh start [--head-cpus N] [--worker-cpus N] [--port P] [--dashboard-port P] [--object-store-gib G]
#   cluster/local.sh status
#   cluster/local.sh stop
#
# STRAY_CLUSTER_DIR says where the ids and logs of its processes are kept (default: stray-cluster in the temporary folder).
# `stop` ends by id what `start` started. It never calls `ray stop`, which would end every Ray process of the machine.
set -euo pipefail

dir=${STRAY_CLUSTER_DIR:-${TMPDIR:-/tmp}/stray-cluster}
pids="$dir/pids"

die() { echo "cluster/local.sh: $*" >&2; exit 1; }

# Whether process $1 is still the one that was started here: ids are used again.
ours() { [ -r "/proc/$1/cmdline" ] && tr '\0' ' ' <"/proc/$1/cmdline" | grep -q "ray.* start"; }

running() { [ -f "$pids" ] && while read -r pid; do ours "$pid" && return 0; done <"$pids"; return 1; }

# $1: name; the rest: arguments of `ray start`. In a session of its own, so that Ctrl-C here does not reach it.
node() {
  local name=$1
  shift
  # A free port for each node's agent: two nodes on one machine would fight for the default one.
  setsid ray start "$@" --block --disable-usage-stats --dashboard-agent-listen-port=0 >"$dir/$name.log" 2>&1 </dev/null &
  last=$!
  echo "$last" >>"$pids"
}

start() {
  local head_cpus=1 worker_cpus=1 port=6379 dashboard=8265 gib=0.5
  while [ $# -gt 0 ]; do
    case $1 in
      --head-cpus) head_cpus=$2 ;;
      --worker-cpus) worker_cpus=$2 ;;
      --port) port=$2 ;;
      --dashboard-port) dashboard=$2 ;;
      --object-store-gib) gib=$2 ;;
      *) die "unknown option $1" ;;
    esac
    shift 2
  done
  command -v ray >/dev/null || die "ray is not on the PATH; activate the environment first"
  running && die "already running; stop it first"
  mkdir -p "$dir"
  : >"$pids"
  echo "$port" >"$dir/port"
  # Jobs find this environment's python by its name, as the nodes of a real cluster would.
  PATH="$(dirname "$(command -v ray)"):$PATH"
  export PATH RAY_USAGE_STATS_ENABLED=0
  if [ -z "${RAY_AUTH_MODE:-}" ]; then
    # The nodes and whoever submits jobs share a token, in the home folder unless RAY_AUTH_TOKEN_PATH says otherwise.
    ray get-auth-token --generate >/dev/null
    export RAY_AUTH_MODE=token
  fi
  local bytes
  bytes=$(awk -v g="$gib" 'BEGIN { printf "%d", g * 1024 ^ 3 }')
  node head --head --port="$port" --num-cpus="$head_cpus" --object-store-memory="$bytes" \
    --include-dashboard=true --dashboard-host=127.0.0.1 --dashboard-port="$dashboard"
  wait_for "the dashboard" "curl_ok http://127.0.0.1:$dashboard/api/version"
  # A folder of its own, as on a machine of its own: in a shared one the nodes unpack a job's files over each other's.
  # Right under /tmp, because the paths of sockets may not be long.
  mktemp -d /tmp/ray-worker-XXXXXX >"$dir/worker-folder"
  node worker --address="127.0.0.1:$port" --num-cpus="$worker_cpus" --object-store-memory="$bytes" \
    --temp-dir="$(cat "$dir/worker-folder")"
  wait_for "the worker node" "grep -q 'runtime started' '$dir/worker.log'"
  echo "cluster of 2 nodes; dashboard and jobs at http://127.0.0.1:$dashboard; logs in $dir"
  if [ "$RAY_AUTH_MODE" = token ]; then echo "\`ray job submit\` needs RAY_AUTH_MODE=token; \`stray submit\` finds the token itself"; fi
}

# Any answer will do: with a token the dashboard answers 401.
curl_ok() { python -c 'import sys, urllib.error, urllib.request as u
try: u.urlopen(sys.argv[1], timeout=2)
except urllib.error.HTTPError: pass' "$1" 2>/dev/null; }

wait_for() {
  for _ in $(seq 120); do
    if eval "$2"; then return 0; fi
    kill -0 "$last" 2>/dev/null || break
    sleep 0.5
  done
  tail -n 30 "$dir"/*.log >&2
  stop >&2
  die "$1 did not come up"
}

stop() {
  [ -f "$pids" ] || { echo "nothing was started"; return 0; }
  # The worker node first, so that the head does not wait for it. `ray start --block` ends its own children on SIGTERM.
  tac "$pids" | while read -r pid; do
    ours "$pid" || continue
    kill -TERM "$pid" 2>/dev/null || true
    for _ in $(seq 60); do
      kill -0 "$pid" 2>/dev/null || break
      sleep 0.25
    done
    # The whole group that setsid made: whatever the node did not end itself.
    kill -KILL -- "-$pid" 2>/dev/null || true
  done
  if [ -f "$dir/worker-folder" ]; then rm -rf -- "$(cat "$dir/worker-folder")"; fi
  # Where Ray's tools look for a cluster when nobody names one: they would wait for one that is gone.
  local current="${RAY_TMPDIR:-${TMPDIR:-/tmp}}/ray/ray_current_cluster"
  if [ -f "$dir/port" ] && grep -q ":$(cat "$dir/port")$" "$current" 2>/dev/null; then rm -f -- "$current" || true; fi
  rm -f "$pids" "$dir/worker-folder" "$dir/port"
  echo "stopped"
}

case ${1:-} in
  start) shift; start "$@" ;;
  stop) stop ;;
  status) if running; then echo "running; logs in $dir"; else echo "not running"; exit 1; fi ;;
  *) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
