#!/usr/bin/env bash
# SLURM job that evolves tiny. Made by `gtl launch slurm`; its folder may be moved as a whole.
# All nodes must see the folder. Submit from inside it:  cd FOLDER && sbatch job.sh
#SBATCH --job-name=gtl-tiny
#SBATCH --nodes=4
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-node=1
#SBATCH --time=1-12:00:00
#SBATCH --partition=gpu
#SBATCH --account=genes
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --qos=long
#SBATCH --ntasks-per-node=1
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=job-%j.log
set -u
cd -- "${SLURM_SUBMIT_DIR:?submit this file with sbatch}" || exit 2
if [ ! -f start.sh ] || [ ! -f config.yaml ]; then
    echo "job.sh: start.sh and config.yaml are not in $PWD: submit from the folder of job.sh" >&2
    exit 2
fi

# ---- your software; and the address of this node, the head, that the other nodes reach it by -----------------------
module load cuda/12
source '/shared/my venv/bin/activate'
head_ip=$(getent ahostsv4 "$(hostname)" | awk '$1 !~ /^127\./ {print $1; exit}')
[ -n "$head_ip" ] || head_ip=$(hostname -I | awk '{print $1}')

# ---- Ray: its own token, port and folder for every job; no usage statistics; bounded logs --------------------------
job=$PWD/.job-$SLURM_JOB_ID
rm -rf -- "$job"
(umask 077 && mkdir -- "$job" && od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"$job/token") || exit 74
unset RAY_AUTH_TOKEN RAY_ADDRESS
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$job/token
export RAY_USAGE_STATS_ENABLED=0 RAY_ROTATION_MAX_BYTES=67108864 RAY_ROTATION_BACKUP_COUNT=2
export RAY_TMPDIR=/tmp/gtl-$SLURM_JOB_ID RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=600
export GTL_ADDRESS=$head_ip:$((20000 + SLURM_JOB_ID % 10000)) # above Ray's worker ports, below the system's own

# ---- the driver runs on this node: its process id and its exit code are left in $job -------------------------------
driver='(echo "$BASHPID" >"$0/pid" && exec bash start.sh); code=$?
echo "$code" >"$0/code.new" && mv "$0/code.new" "$0/code"; exit "$code"'
stopping=
stop() { # 120 s before the time limit, and on preemption. symmetric-run passes no TERM on: the driver gets it from here
    stopping=1
    kill -TERM "$(cat "$job/pid" 2>/dev/null)" 2>/dev/null || kill -TERM "$step" 2>/dev/null
}
clean() {
    kill -TERM "$step" 2>/dev/null
    rm -rf -- "$job"
}
step=
trap clean EXIT
trap stop TERM
srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 \
    --cpus-per-task="$SLURM_CPUS_PER_TASK" --kill-on-bad-exit=0 \
    ray symmetric-run --address "$GTL_ADDRESS" --min-nodes "$SLURM_JOB_NUM_NODES" \
    --num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus="${SLURM_GPUS_ON_NODE:-0}" --dashboard-host=127.0.0.1 \
    -- bash -c "$driver" "$job" </dev/null &
step=$!
while [ ! -e "$job/code" ] && kill -0 "$step" 2>/dev/null; do sleep 1; done
if [ -e "$job/code" ]; then
    code=$(cat "$job/code")
else # the driver never ended by itself: Ray did not start, or everything was killed
    wait "$step"
    code=$?
fi
patience=90 # seconds for Ray to stop: nodes notice within about a minute that the head has gone
[ -z "$stopping" ] || patience=20
for ((i = 0; i < patience; i++)); do
    kill -0 "$step" 2>/dev/null || break
    sleep 1
done

# ---- 75: stopped, resumable. Queue again only if SLURM asked us to stop: a cancelled job must stay cancelled ---------
if [ -n "$stopping" ] && { [ "$code" -eq 75 ] || [ "$code" -gt 128 ]; }; then
    if [ "${SLURM_RESTART_COUNT:-0}" -lt 100 ]; then
        echo "job.sh: stopped, the run can be resumed; queueing job $SLURM_JOB_ID again"
        scontrol requeue "$SLURM_JOB_ID" && exit 75
    fi
    echo "job.sh: stopped, the run can be resumed, but the job was not queued again: sbatch job.sh" >&2
    exit 75
fi
echo "job.sh: driver ended with exit code $code"
exit "$code"
