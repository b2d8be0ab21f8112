#!/usr/bin/env bash
# A real SLURM on this machine, for tests: controller, simulated nodes with fake GPUs, two partitions, `main` and, below it,
# `preempt`. Tried on Debian 12 (SLURM 22.05). Does nothing where a controller answers already. Settings: settings.sh.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")"
. ./settings.sh

if scontrol ping >/dev/null 2>&1; then echo "SLURM: one is running already; leaving it as it is"; exit; fi
need_root
for file in slurm.conf gres.conf slurmdbd.conf; do
  if [ -e "/etc/slurm/$file" ] && ! grep -qxF "$MARK" "/etc/slurm/$file"; then
    fail "/etc/slurm/$file is not this script's and its controller does not answer; start that one, or move the file away"
  fi
done
if [ ! -e "$CLUSTER_ROOT/.rf_repro" ] && [ -n "$(ls -A "$CLUSTER_ROOT" 2>/dev/null)" ]; then
  fail "$CLUSTER_ROOT holds other things; choose another CLUSTER_ROOT"
fi

programs=(slurmctld slurmd srun munged)
packages=(slurmctld slurmd slurm-client munge)
if [ "$ACCOUNTING" = 1 ]; then programs+=(slurmdbd mariadbd); packages+=(slurmdbd mariadb-server); fi
if [ "$(for program in "${programs[@]}"; do command -v "$program"; done | wc -l)" -lt "${#programs[@]}" ]; then
  command -v apt-get >/dev/null || fail "${programs[*]} are not all here, and only Debian's and Ubuntu's packages are known"
  echo "SLURM: installing ${packages[*]}"
  log=$(mktemp)
  export DEBIAN_FRONTEND=noninteractive
  { apt-get update -qq && apt-get install -y -qq --no-install-recommends "${packages[@]}"; } >"$log" 2>&1 ||
    { tail -n 5 "$log" >&2; fail "apt-get could not install ${packages[*]} (all of its output: $log)"; }
  rm "$log"
fi

mkdir -p "$CLUSTER_ROOT"/{state,spool,dev,log} /etc/slurm
touch "$CLUSTER_ROOT/.rf_repro"
cd "$CLUSTER_ROOT"
started() { wait_for 30 "${@:2}" || { tail -n 5 "$CLUSTER_ROOT"/log/*.log >&2; fail "$1 did not come up; its log is in $CLUSTER_ROOT/log"; }; }

# A munge of its own, so that one of the system's is left alone; --force, because /tmp is writable for everybody.
[ -e munge.key ] || mungekey --create --keyfile=munge.key
alive munged.pid || munged --force --socket="$PWD/munge.socket" --key-file="$PWD/munge.key" --pid-file="$PWD/munged.pid" \
  --seed-file="$PWD/munge.seed" --log-file="$PWD/log/munged.log" 2>/dev/null
started munged munge --no-input --socket="$PWD/munge.socket"

storage=accounting_storage/none
if [ "$ACCOUNTING" = 1 ]; then
  storage=accounting_storage/slurmdbd
  [ -d mysql ] || mariadb-install-db --no-defaults --user=root --datadir="$PWD/mysql" >log/mariadb-install.log 2>&1
  if ! alive mariadb.pid; then
    setsid mariadbd --no-defaults --user=root --datadir="$PWD/mysql" --socket="$PWD/mysql.sock" --pid-file="$PWD/mariadb.pid" \
      --bind-address=127.0.0.1 --port="$DATABASE_PORT" --innodb-buffer-pool-size=64M >log/mariadb.log 2>&1 </dev/null &
  fi
  started mariadbd mariadb-admin --no-defaults --socket="$PWD/mysql.sock" ping
  mariadb --no-defaults --socket="$PWD/mysql.sock" -e \
    "create user if not exists slurm@'127.0.0.1' identified by 'slurm'; grant all on slurm_acct_db.* to slurm@'127.0.0.1'"
  install -m 600 /dev/null /etc/slurm/slurmdbd.conf
  cat >/etc/slurm/slurmdbd.conf <<EOF
$MARK
AuthType=auth/munge
AuthInfo=socket=$PWD/munge.socket
DbdHost=localhost
DbdPort=$DATABASE_DAEMON_PORT
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=$DATABASE_PORT
StorageUser=slurm
StoragePass=slurm
PidFile=$PWD/slurmdbd.pid
LogFile=$PWD/log/slurmdbd.log
EOF
fi

cat >/etc/slurm/slurm.conf <<EOF
$MARK
ClusterName=rf_repro
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmctldPort=$CONTROLLER_PORT
SlurmUser=root
AuthType=auth/munge
# cred_expire: a requeued job waits as long (default 120 s)
AuthInfo=socket=$PWD/munge.socket,cred_expire=5
AccountingStorageType=$storage
AccountingStorageHost=localhost
AccountingStoragePort=$DATABASE_DAEMON_PORT
# with munge, the "password" is the socket
AccountingStoragePass=$PWD/munge.socket
JobAcctGatherType=jobacct_gather/linux
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
GresTypes=gpu
MaxArraySize=$MAX_ARRAY_SIZE
SchedulerParameters=sched_interval=2,bf_interval=2
# a preempted job gets the signal it asked for with --signal, then GraceTime
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
# SIGKILL follows SIGTERM after so many seconds (default 30)
KillWait=5
# nodes are as large as this file says, whatever the machine
SlurmdParameters=config_overrides
ReturnToService=2
StateSaveLocation=$PWD/state
SlurmdSpoolDir=$PWD/spool/%n
SlurmctldPidFile=$PWD/slurmctld.pid
SlurmdPidFile=$PWD/slurmd-%n.pid
SlurmctldLogFile=$PWD/log/slurmctld.log
SlurmdLogFile=$PWD/log/slurmd-%n.log
NodeName=n[1-$NODES] NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 Port=[$((NODE_PORT + 1))-$((NODE_PORT + NODES))] CPUs=$CPUS RealMemory=16000 Gres=gpu:$GPUS
PartitionName=main Nodes=ALL Default=YES PriorityTier=10
PartitionName=preempt Nodes=ALL PriorityTier=1 GraceTime=20
EOF
for i in $(seq 0 $((GPUS - 1))); do ln -sfn /dev/null "dev/gpu$i"; done      # a GPU has to be a character device
printf '%s\nNodeName=n[1-%s] Name=gpu File=%s/dev/gpu[0-%s]\n' "$MARK" "$NODES" "$PWD" $((GPUS - 1)) >/etc/slurm/gres.conf
# Node names resolve, as they must where one becomes a master address.
grep -qF "$MARK" /etc/hosts || echo "127.0.0.1 $(seq -s ' ' -f 'n%.0f' "$NODES") $MARK" >>/etc/hosts

if [ "$ACCOUNTING" = 1 ]; then
  alive slurmdbd.pid || slurmdbd
  started slurmdbd sacctmgr -n list cluster
  sacctmgr -n list cluster format=cluster | grep -qw rf_repro || sacctmgr -i add cluster rf_repro >/dev/null
fi
alive slurmctld.pid || slurmctld
started slurmctld scontrol ping
for i in $(seq "$NODES"); do alive "slurmd-n$i.pid" || slurmd -N "n$i"; done
all_idle() { [ "$(sinfo --noheader --Node --format=%T --partition=main | grep -cx idle)" = "$NODES" ]; }
started slurmd all_idle
sinfo --Node --format='%N %P %T %c %G'
