# Shared by up.sh, down.sh and run.sh: what can be set, and the right to do it. Sourced, never run.
#   CLUSTER_ROOT    folder of all state, sockets and logs            NODES, CPUS, GPUS   simulated nodes, and what each has
#   ACCOUNTING=1    with slurmdbd and MariaDB, so that sacct works   MAX_ARRAY_SIZE      largest array index + 1
CLUSTER_ROOT=${CLUSTER_ROOT:-/tmp/rf_repro-slurm}
ACCOUNTING=${ACCOUNTING:-0}
NODES=${NODES:-2}
CPUS=${CPUS:-16}
GPUS=${GPUS:-8}
MAX_ARRAY_SIZE=${MAX_ARRAY_SIZE:-1001}

PATH=$PATH:/usr/sbin:/sbin                       # the daemons, in a user's shell
MARK="# written by rf_repro's tests/cluster/up.sh; down.sh removes it"
DATABASE_PORT=33061
CONTROLLER_PORT=16817                            # not SLURM's own: a real one may be configured elsewhere on this machine
DATABASE_DAEMON_PORT=16819
NODE_PORT=17100                                  # node i listens on NODE_PORT + i

fail() { echo "error: $*" >&2; exit 2; }

# Daemons that start jobs need root: starts the calling script again through sudo where that asks for no password.
need_root() {
  [ "$(id -u)" = 0 ] && return
  sudo -n true 2>/dev/null || fail "a SLURM for tests needs root or passwordless sudo; on a machine without either, run \`make test\`"
  exec sudo -n env CLUSTER_ROOT="$CLUSTER_ROOT" ACCOUNTING="$ACCOUNTING" NODES="$NODES" CPUS="$CPUS" GPUS="$GPUS" \
    MAX_ARRAY_SIZE="$MAX_ARRAY_SIZE" "$PWD/$(basename "$0")"
}

alive() { [ -s "$1" ] && kill -0 "$(cat "$1")" 2>/dev/null; }                     # a daemon, by its pid file

wait_for() {                                                                      # SECONDS COMMAND...
  local end=$((SECONDS + $1)); shift
  until "$@" >/dev/null 2>&1; do [ "$SECONDS" -lt "$end" ] || return 1; sleep 0.2; done
}
