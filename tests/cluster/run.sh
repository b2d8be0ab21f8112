#!/usr/bin/env bash
# run.sh COMMAND...: runs it with a SLURM, starting one (and stopping it afterwards, whatever happens) unless one is running.
# Returns the command's status.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
if scontrol ping >/dev/null 2>&1; then
  echo "SLURM: using the one that is running, cluster $(scontrol show config | sed -n 's/^ClusterName *= *//p')"
  "$@"
else
  trap '"$here/down.sh"' EXIT
  "$here/up.sh"
  "$@"
fi
