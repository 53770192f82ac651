#!/usr/bin/env bash
# A Ray cluster of several nodes on this machine, at a loopback address, for those who have its token (Linux):
#   cluster/local/start.sh [NODES]         (2 by default: the head, where nothing trains, and one worker node)
# RAYSTAGE_CLUSTER: folder for process ids, the token and logs (~/.local/state/raystage/cluster). PORT (6379), DASHBOARD_PORT (8265).
# CPUS (of each worker node: the machine's cores shared out). RAY_TEMP: Ray's folder (/tmp/ray). cluster/local/stop.sh ends it.
set -euo pipefail

nodes=${1:-2}
state=${RAYSTAGE_CLUSTER:-$HOME/.local/state/raystage/cluster}
port=${PORT:-6379}
dashboard_port=${DASHBOARD_PORT:-8265}
address=127.0.0.2  # Ray takes 127.0.0.1 for a mistake and puts the machine's outer address in its place
if ! [[ $nodes =~ ^[0-9]+$ ]] || ((nodes < 2)); then
  echo "start.sh: NODES=$nodes: give a number, at least 2" >&2
  exit 2
fi
if [[ -s $state/pids ]]; then
  echo "start.sh: a cluster is noted in $state; end it first: cluster/local/stop.sh" >&2
  exit 1
fi
cores=$(getconf _NPROCESSORS_ONLN)
cpus=${CPUS:-$((cores / (nodes - 1) > 0 ? cores / (nodes - 1) : 1))}

umask 077
mkdir -p "$state"
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$state/token
export RAY_JOB_STOP_WAIT_TIME_S=120  # raystage saves a checkpoint when a job is stopped; Ray's own 3 s are too few
[[ -s $state/token ]] || python -c 'import secrets; print(secrets.token_hex(32), end="")' > "$state/token"

# Each node is a process group of its own, noted for stop.sh before anything else can fail: its number, and when it began after which boot,
# since numbers are given again.
began() { echo "$(cat /proc/sys/kernel/random/boot_id):$(sed 's/.*) //' "/proc/$1/stat" | cut -d ' ' -f 20)"; }
start_node() {
  local log=$1
  shift
  setsid ray start --block --node-ip-address=$address --disable-usage-stats "$@" > "$state/$log" 2>&1 < /dev/null &
  echo "$! $(began $!)" >> "$state/pids"
}

# Ray says itself how many nodes are up; within a minute, and as long as the newest of them lives
wait_for() {
  local wanted=$1
  for _ in {1..30}; do
    kill -0 "$(tail -n 1 "$state/pids" | cut -d ' ' -f 1)" 2> /dev/null || break
    [[ $(RAY_ADDRESS=$address:$port timeout 30 python -c "$count_nodes" 2> "$state/wait.log" || true) == "$wanted" ]] && return
    sleep 1
  done
  echo "start.sh: $wanted nodes did not come up; see the logs in $state (is port $port or $dashboard_port taken?)" >&2
  "$(dirname "${BASH_SOURCE[0]}")/stop.sh"
  exit 1
}
count_nodes='import ray; ray.init(logging_level="ERROR"); print(sum(node["Alive"] for node in ray.nodes()))'

start_node head.log --head --port="$port" --num-cpus=0 --temp-dir="${RAY_TEMP:-/tmp/ray}" \
  --include-dashboard=true --dashboard-host=127.0.0.1 --dashboard-port="$dashboard_port"
wait_for 1
for ((i = 1; i < nodes; i++)); do
  start_node "node$i.log" --address="$address:$port" --num-cpus="$cpus" --dashboard-agent-listen-port=0
done
wait_for "$nodes"

cat <<END
$nodes nodes are up, with $cpus CPUs on each worker node. For this shell:
  export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$state/token
  export RAY_ADDRESS=$address:$port            # raystage train ...
Jobs and the dashboard, which asks for the token (cat $state/token):
  RAY_API_SERVER_ADDRESS=http://127.0.0.1:$dashboard_port ray job submit -- raystage train ...
END
