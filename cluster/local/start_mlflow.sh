#!/usr/bin/env bash
# An MLflow server on this machine, on the loopback address, with passwords: cluster/local/start_mlflow.sh
# RAYSTAGE_CLUSTER: folder for its database, artifacts, users and log (~/.local/state/raystage/cluster). MLFLOW_PORT (5000).
# MLFLOW_AUTH_ADMIN_PASSWORD: of the user admin, at the first start; without it one is made, and kept in the folder. stop.sh ends it.
set -euo pipefail

state=${RAYSTAGE_CLUSTER:-$HOME/.local/state/raystage/cluster}
port=${MLFLOW_PORT:-5000}
folder=$state/mlflow
umask 077
mkdir -p "$folder"

secret() { # a file of random letters, made once
  [[ -s $folder/$1 ]] || python -c 'import secrets; print(secrets.token_hex(24), end="")' > "$folder/$1"
  cat "$folder/$1"
}

admin_password=${MLFLOW_AUTH_ADMIN_PASSWORD:-$(secret admin_password)}
flask_key=$(secret flask_key)
cat > "$folder/auth.ini" <<END
[mlflow]
default_permission = READ
database_uri = sqlite:///$folder/auth.db
admin_username = admin
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
auth_cache_ttl_seconds = 3600
END

cd "$folder"
MLFLOW_AUTH_ADMIN_PASSWORD=$admin_password MLFLOW_FLASK_SERVER_SECRET_KEY=$flask_key MLFLOW_AUTH_CONFIG_PATH=$folder/auth.ini \
  setsid mlflow server --app-name=basic-auth --host=127.0.0.1 --port="$port" --workers=1 \
  --backend-store-uri="sqlite:///$folder/mlflow.db" --artifacts-destination="$folder/artifacts" > server.log 2>&1 < /dev/null &
began() { echo "$(cat /proc/sys/kernel/random/boot_id):$(sed 's/.*) //' "/proc/$1/stat" | cut -d ' ' -f 20)"; }
echo "$! $(began $!)" >> "$state/pids"

for _ in {1..120}; do
  if python -c 'import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=2)' "http://127.0.0.1:$port/health" 2> /dev/null; then
    cat <<END
MLflow is at http://127.0.0.1:$port. For this shell:
  export MLFLOW_TRACKING_URI=http://127.0.0.1:$port MLFLOW_TRACKING_USERNAME=admin
  export MLFLOW_TRACKING_PASSWORD=...           # what you gave at the first start, or the words in $folder/admin_password
END
    exit 0
  fi
  sleep 1
done
echo "start_mlflow.sh: no answer within two minutes; see $folder/server.log; cluster/local/stop.sh ends it" >&2
exit 1
