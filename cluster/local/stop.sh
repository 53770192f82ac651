#!/usr/bin/env bash
# Ends what start.sh and start_mlflow.sh have started, and nothing else: the process groups noted in RAYSTAGE_CLUSTER.
set -euo pipefail

state=${RAYSTAGE_CLUSTER:-$HOME/.local/state/raystage/cluster}
if [[ ! -s $state/pids ]]; then
  echo "stop.sh: nothing is noted in $state"
  exit 0
fi

# The last one first, so that the head sees its nodes leave.
began() { echo "$(cat /proc/sys/kernel/random/boot_id):$(sed 's/.*) //' "/proc/$1/stat" 2> /dev/null | cut -d ' ' -f 20)"; }
tac "$state/pids" | while read -r pid noted; do
  # after a crash or a boot the number may be somebody else's; a group whose first process has ended keeps its number
  [[ ! -e /proc/$pid || $(began "$pid") == "$noted" ]] || continue
  kill -TERM -- "-$pid" 2> /dev/null || continue
  for _ in {1..150}; do
    kill -0 -- "-$pid" 2> /dev/null || break
    sleep 0.1
  done
  kill -KILL -- "-$pid" 2> /dev/null || true
done
rm "$state/pids"
echo "stopped; the token, the records and the logs stay in $state"
