#!/usr/bin/env bash
# A night on a real Slurm: one controller and one node on this machine, the cpu device, four shards, one of them killed and
# requeued. Needs root and Debian's slurm-wlm (apt-get install slurm-wlm), so it is no part of .ci/run:
#
#   cargo build --release && sudo tests/slurm/run.sh target/release/sweep
#
# Passes where the shards' journals together hold every trial exactly once, the killed shard went on where it was, and
# the merged document is in place.
set -euo pipefail

tool=$(realpath "${1:?the tool to test, such as target/release/sweep}")
script=$(realpath "$(dirname "$0")/../../sweeps/slurm/nightly.sbatch")
work=$(mktemp -d /tmp/sweep-slurm.XXXXXX)
host=$(hostname -s)
daemons=()

finish() {
    local status=$?
    for pid in "${daemons[@]}"; do kill "$pid" 2>/dev/null || true; done
    [ "$status" -eq 0 ] && rm -rf "$work" || echo "failed; logs are in $work" >&2
    exit "$status"
}
trap finish EXIT

start_slurm() {
    mkdir -p "$work"/{state,spool,munge}
    cat >"$work/slurm.conf" <<CONF
ClusterName=sweep
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmctldPort=16817
SlurmdPort=16818
AuthType=auth/munge
AuthInfo=socket=$work/munge/socket
CryptoType=crypto/munge
StateSaveLocation=$work/state
SlurmdSpoolDir=$work/spool
SlurmctldPidFile=$work/slurmctld.pid
SlurmdPidFile=$work/slurmd.pid
SlurmctldLogFile=$work/slurmctld.log
SlurmdLogFile=$work/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1,bf_interval=1,sched_min_interval=1
SlurmdParameters=config_overrides
KillWait=1
ReturnToService=2
NodeName=$host NodeAddr=127.0.0.1 CPUs=4 State=UNKNOWN
PartitionName=all Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF
    export SLURM_CONF="$work/slurm.conf"
    chown -R munge: "$work/munge" && chmod 755 "$work" "$work/munge"
    setpriv --reuid munge --regid munge --clear-groups munged --foreground --force --socket "$work/munge/socket" --pid-file "$work/munge/pid" \
        --log-file "$work/munge/log" --seed-file "$work/munge/seed" >"$work/munged.out" 2>&1 &
    daemons+=($!)
    wait_for "munge" test -S "$work/munge/socket"
    slurmctld -D -f "$SLURM_CONF" >"$work/slurmctld.out" 2>&1 &
    daemons+=($!)
    slurmd -D -f "$SLURM_CONF" -N "$host" >"$work/slurmd.out" 2>&1 &
    daemons+=($!)
    wait_for "an idle node" bash -c "sinfo -h -o %T | grep -q idle"
}

# wait_for WHAT COMMAND...: until the command succeeds, two minutes at most.
wait_for() {
    local what=$1
    shift
    for _ in $(seq 600); do
        "$@" >/dev/null 2>&1 && return
        sleep 0.2
    done
    echo "waited in vain for $what" >&2
    return 1
}

lines() { wc -l <"$1" 2>/dev/null || echo 0; }
longer() { [ "$(lines "$1")" -gt "$2" ]; }
over() { ! squeue -h -j "$1" 2>/dev/null | grep -q .; }

# A plan of 32 problems, so wide that a shard takes seconds and can be caught at work; a sweep of it beforehand makes the
# document that the night is to replace.
cd "$work"
mkdir sweeps
{
    cat <<'PLAN'
[space.cpu]
default = { block_sizes = [64], num_warps = 1, reduction_loops = ["whole"] }
[space.cpu.axes]
block_sizes = [[1, 2, 4, 8, 16, 32, 64, 128]]
num_warps = [1]
reduction_loops = [["whole"], [4096]]
PLAN
    for more in $(seq 32); do printf '[[space.cpu.problem]]\nrows = %d\ncols = 26000\n' $((more)); done
} >sweeps/row_softmax.toml
"$tool" --gpu cpu --family row_softmax -q

start_slurm
submitted=$(GPU=cpu SHARDS=4 FAMILY=row_softmax SWEEP="$tool" ACCEPT=1 "$script" -n 1)
echo "$submitted"
[[ $submitted =~ ^(.*):\ search\ ([0-9]+),\ cross\ ([0-9]+),\ merge\ ([0-9]+)$ ]]
night=${BASH_REMATCH[1]} search=${BASH_REMATCH[2]} merge=${BASH_REMATCH[4]}

journal="$night/cpu/journal/row_softmax.shard-1-of-4.jsonl"
wait_for "shard 1 to measure" longer "$journal" 20
scontrol requeue "${search}_1"
echo "requeued ${search}_1 after $(lines "$journal") lines"
# Slurm lets a requeued job wait two minutes.
wait_for "shard 1 to be pending" bash -c "squeue -h -r -j ${search}_1 -o %T | grep -q PENDING"
head -n "$(lines "$journal")" "$journal" >killed.jsonl
# Not at once: the node refuses whatever carries the credential of the very second it revoked.
scontrol update "jobid=${search}_1" StartTime=now+5seconds
for _ in 1 2 3 4 5; do
    over "$merge" && break
    wait_for "the night to end" over "$merge" || true
done
over "$merge"

scontrol show job "${search}_1" | grep -q "Restarts=1" || { echo "shard 1 was not restarted" >&2; exit 1; }
python3 - "$night" killed.jsonl <<'CHECK'
import collections, glob, json, sys

night, killed = sys.argv[1:]
journals = sorted(glob.glob(f"{night}/cpu/journal/*.jsonl"))
assert len(journals) == 4, journals
seen, home = collections.Counter(), {}
for journal in journals:
    for line in map(json.loads, open(journal)):
        if line["kind"] == "trial":
            problem = json.dumps(line["problem"], sort_keys=True)
            assert home.setdefault(problem, journal) == journal, f"{problem} is in two shards"
            seen[problem, json.dumps(line["config"], sort_keys=True), line["stage"], line.get("null_arm", False)] += 1
twice = [trial for trial, count in seen.items() if count > 1]
assert not twice, f"tried twice: {twice}"
assert len(home) == 32, f"{len(home)} problems of 32"
before, after = open(killed).read(), open(f"{night}/cpu/journal/row_softmax.shard-1-of-4.jsonl").read()
whole = before[: before.rfind("\n") + 1]
assert whole and after.startswith(whole), "the requeued shard did not go on where it was"
document = json.load(open("output/cpu/observed_heuristics_cpu.json"))
new = json.load(open(f"{night}/cpu/observed_heuristics_cpu.json"))
assert document == new, "the merged document is not in place"
problems = {p["problem"] for f in document["fallbacks"]["row_softmax"].values() for p in f["source"]["problems"]}
assert len(problems) == 32, f"the document knows {len(problems)} problems"
crossed = sum(stage == "cross" for _, _, stage, _ in seen)
assert crossed, "no shard knows of the others' finalists"
print(f"{sum(seen.values())} trials ({crossed} crossed), each once, over {len(home)} problems in {len(journals)} shards; one requeued")
CHECK
