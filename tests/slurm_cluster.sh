#!/usr/bin/env bash
# A SLURM cluster of one node on this machine, with accounting, for the tests and for people: as root in a container or
# a virtual machine, never on a machine that belongs to a cluster. Everything it writes is in one folder, it listens on
# loopback alone, it needs neither systemd nor cgroups, and it leaves the system's own services and configuration alone.
#
#   tests/slurm_cluster.sh install                  install what it needs from Debian's packages (apt-get)
#   tests/slurm_cluster.sh start FOLDER [PROCESS]   start it, until PROCESS ends if one is named; then:
#                                                   export SLURM_CONF=FOLDER/slurm.conf
#   tests/slurm_cluster.sh stop FOLDER              end what start started, and nothing else
#
# Partitions: low (preemptible: its jobs are requeued when one of high needs their place; the default), grace (the same
# with 15 s to end in order), high. SLURM looks at everything every second or so, so that a test takes a minute.
set -euo pipefail

packages=(munge mariadb-server-core mariadb-client-core slurmctld slurmd slurmdbd slurm-client)

die() { echo "error: $*" >&2; exit 2; }

install() {
  # no service is started: the cluster has its own configuration, and starts them itself
  local policy=/usr/sbin/policy-rc.d
  local mine=
  if [ ! -e "$policy" ]; then printf '#!/bin/sh\nexit 101\n' >"$policy"; chmod +x "$policy"; mine=1; fi
  local status=0
  { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${packages[@]}"; } \
    || status=$?
  if [ -n "$mine" ]; then rm "$policy"; fi
  return "$status"
}

# until SECONDS LOG COMMAND...: wait until COMMAND succeeds, or say what LOG ends with
until_up() {
  local seconds=$1 log=$2; shift 2
  for ((k = 0; k < seconds * 5; k++)); do
    if timeout 5 "$@" >/dev/null 2>&1; then return; fi
    sleep 0.2
  done
  die "$(basename "$log" .log) did not come up: $(tail -n 1 "$log" 2>/dev/null || echo 'it wrote no log')"
}

# daemon NAME COMMAND...: start a daemon in the foreground of a session of its own, and remember its process
daemon() {
  local name=$1; shift
  setsid "$@" >>"$folder/$name.log" 2>&1 </dev/null &
  echo "$! $(start_of $!)" >"$folder/$name.pid"
}

# when a process began, so that a number that the system gave to another process since is not taken for ours
start_of() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20 || true; }

free_ports() {
  python3 - "$1" <<'PYTHON'
import socket, sys
held = [socket.socket() for _ in range(int(sys.argv[1]))]
for one in held:
    one.bind(("127.0.0.1", 0))
print(*(one.getsockname()[1] for one in held))
PYTHON
}

start() {
  [ "$(id -u)" = 0 ] || die "a cluster is started as root"
  local program
  for program in munged mariadbd mariadb-install-db my_print_defaults slurmdbd slurmctld slurmd sbatch sacctmgr python3; do
    command -v "$program" >/dev/null || die "$program is not installed: tests/slurm_cluster.sh install"
  done
  mkdir -p "$folder"
  [ -z "$(ls -A "$folder")" ] || die "$folder is not empty"
  chmod 755 "$folder"
  trap 'status=$?; [ $status = 0 ] || stop; exit $status' EXIT
  mkdir -m 700 "$folder/munge" "$folder/mysql"
  mkdir -m 755 "$folder/ctld" "$folder/d" "$folder/socket"
  local host cpus memory controller database node
  host=$(hostname -s)
  cpus=$(env -u OMP_NUM_THREADS nproc)  # which would answer with that
  memory=$(awk '/MemTotal/ {print int($2 / 1024 * 0.9)}' /proc/meminfo)
  read -r controller database node <<<"$(free_ports 3)"

  dd if=/dev/urandom of="$folder/munge/key" bs=1024 count=1 2>/dev/null
  chmod 400 "$folder/munge/key"
  daemon munged munged --foreground --force --socket="$folder/socket/munge" --key-file="$folder/munge/key" \
    --pid-file="$folder/munge/pid" --log-file="$folder/munge/log" --seed-file="$folder/munge/seed"
  until_up 10 "$folder/munged.log" munge --socket="$folder/socket/munge" -n

  mariadb-install-db --no-defaults --user=root --datadir="$folder/mysql" --skip-test-db \
    --auth-root-authentication-method=normal >"$folder/mariadb-install.log" 2>&1 \
    || die "mariadb-install-db failed: $(tail -n 1 "$folder/mariadb-install.log")"
  printf '%s;\n' "CREATE DATABASE slurm" "CREATE USER slurm@localhost IDENTIFIED BY 'slurm'" \
    "GRANT ALL ON slurm.* TO slurm@localhost" >"$folder/users.sql"
  daemon mariadbd mariadbd --no-defaults --user=root --datadir="$folder/mysql" --socket="$folder/socket/mysql" \
    --skip-networking --init-file="$folder/users.sql" --innodb-buffer-pool-size=32M --innodb-flush-log-at-trx-commit=0
  until_up 40 "$folder/mariadbd.log" test -S "$folder/socket/mysql"

  cat >"$folder/slurmdbd.conf" <<CONF
AuthType=auth/munge
AuthInfo=socket=$folder/socket/munge
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort=$database
CommunicationParameters=NoInAddrAny
SlurmUser=root
PidFile=$folder/slurmdbd.run
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm
CONF
  chmod 600 "$folder/slurmdbd.conf"

  cat >"$folder/slurm.conf" <<CONF
ClusterName=invariance
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$controller
SlurmdPort=$node
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
AuthType=auth/munge
AuthInfo=socket=$folder/socket/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$folder/ctld
SlurmdSpoolDir=$folder/d
SlurmctldPidFile=$folder/slurmctld.run
SlurmdPidFile=$folder/slurmd.run
SlurmctldDebug=info
SlurmdDebug=info
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=$database
AccountingStoragePass=$folder/socket/munge
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2,sched_min_interval=0,preempt_youngest_first
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
EnforcePartLimits=ALL
KillWait=15
MinJobAge=300
InactiveLimit=0
ReturnToService=2
OverTimeLimit=0
SlurmctldTimeout=30
SlurmdTimeout=30
DefMemPerCPU=1000
JobAcctGatherParams=OverMemoryKill
NodeName=$host NodeAddr=127.0.0.1 CPUs=$cpus RealMemory=$memory State=UNKNOWN
PartitionName=low Nodes=$host Default=YES MaxTime=INFINITE PriorityTier=1 PreemptMode=REQUEUE
PartitionName=grace Nodes=$host MaxTime=INFINITE PriorityTier=1 PreemptMode=REQUEUE GraceTime=15
PartitionName=high Nodes=$host MaxTime=INFINITE PriorityTier=10 PreemptMode=OFF
CONF
  export SLURM_CONF=$folder/slurm.conf
  MYSQL_UNIX_PORT=$folder/socket/mysql daemon slurmdbd slurmdbd -D
  until_up 40 "$folder/slurmdbd.log" sacctmgr -n -i list cluster
  daemon slurmctld slurmctld -D -c
  until_up 40 "$folder/slurmctld.log" scontrol ping
  daemon slurmd slurmd -D -N "$host"
  until_up 40 "$folder/slurmd.log" sh -c '[ "$(sinfo --noheader --format=%t --partition=low)" = idle ]'
  trap - EXIT
  if [ -n "$1" ]; then setsid "$0" stop "$folder" "$1" "$(start_of "$1")" >/dev/null 2>&1 </dev/null & fi
  echo "export SLURM_CONF=$folder/slurm.conf"
}

# stop [PROCESS BEGAN]: stop the cluster, as soon as a process has ended
stop() {
  local file pid began name
  if [ -n "${1:-}" ]; then
    while [ "$(start_of "$1")" = "$2" ]; do sleep 1; done
  fi
  for name in slurmd slurmctld slurmdbd mariadbd munged; do
    file=$folder/$name.pid
    if [ ! -e "$file" ]; then continue; fi
    read -r pid began <"$file"
    if [ -n "$began" ] && [ "$(start_of "$pid")" = "$began" ]; then
      kill "$pid" 2>/dev/null || true
      for ((k = 0; k < 100; k++)); do
        if [ "$(start_of "$pid")" != "$began" ]; then break; fi
        sleep 0.1
      done
      if [ "$(start_of "$pid")" = "$began" ]; then kill -9 "$pid" 2>/dev/null || true; fi
    fi
    rm "$file"
  done
}

case "${1:-}" in
  install) install ;;
  start | stop)
    [ $# -ge 2 ] || die "name the cluster's folder: $0 $1 FOLDER"
    folder=$(realpath -m "$2")
    "$1" "${3:-}" "${4:-}"
    ;;
  *) sed -n '2,13s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
