#!/usr/bin/env bash
# Stops the SLURM that up.sh started, and its jobs. Its logs stay. Any other SLURM is left alone.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")"
. ./settings.sh

grep -qxF "$MARK" /etc/slurm/slurm.conf 2>/dev/null || { echo "SLURM: none of ours to stop"; exit; }
need_root
cd "$(sed -n 's|^StateSaveLocation=\(.*\)/state$|\1|p' /etc/slurm/slurm.conf)"
if scontrol ping >/dev/null 2>&1; then
  squeue --noheader --format=%F | sort -u | xargs --no-run-if-empty scancel
  no_jobs() { [ -z "$(squeue --noheader)" ]; }
  wait_for 20 no_jobs || echo "SLURM: jobs that do not end: $(squeue --noheader --format=%i | xargs)" >&2
fi
for file in slurmd-n*.pid slurmctld.pid slurmdbd.pid mariadb.pid munged.pid; do        # in this order: each needs those after it
  alive "$file" || continue
  pid=$(cat "$file")
  kill "$pid"
  gone() { ! kill -0 "$pid" 2>/dev/null; }
  wait_for 20 gone || { echo "SLURM: $file: process $pid does not end; killing it" >&2; kill -9 "$pid"; }
done
for file in slurm.conf gres.conf slurmdbd.conf; do
  ! grep -qxF "$MARK" "/etc/slurm/$file" 2>/dev/null || rm "/etc/slurm/$file"
done
hosts=$(grep -vF "$MARK" /etc/hosts)
echo "$hosts" >/etc/hosts                                              # in place: a container's cannot be replaced
rm -rf state spool dev mysql ./*.pid munge.* mysql.sock*
