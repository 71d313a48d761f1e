#!/usr/bin/env bash
# An MLflow server for a cluster: runs in a database, artifacts in a folder or bucket, both behind one address.
#
#   cluster/mlflow/serve.sh [--host ADDRESS] [--port PORT]
#
# STRAY_MLFLOW_STORE: database (default sqlite:///mlflow.db; several servers need PostgreSQL: postgresql://USER@HOST/DB)
# STRAY_MLFLOW_ARTIFACTS: folder or URI of the artifacts (default ./mlflow-artifacts), which the server reads and writes for
# its clients: they need no access of their own.
#
# It answers on loopback unless --host says otherwise, and asks nobody who they are: put it behind what your network trusts.
# Point jobs at it: stray submit --env MLFLOW_TRACKING_URI=http://HOST:5000 -- train ...
set -euo pipefail

host=127.0.0.1 port=5000
while [ $# -gt 0 ]; do
  case $1 in
    --host) host=$2 ;;
    --port) port=$2 ;;
    *) sed -n '2,13s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
  esac
  shift 2
done

artifacts=${STRAY_MLFLOW_ARTIFACTS:-$PWD/mlflow-artifacts}
# exec: the server's process group is this one, so that ending it ends its workers too.
exec mlflow server --host "$host" --port "$port" --backend-store-uri "${STRAY_MLFLOW_STORE:-sqlite:///mlflow.db}" \
  --artifacts-destination "$artifacts" --serve-artifacts
