#!/usr/bin/env bash
#SBATCH --job-name=nlptl
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --time=08:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#
# A job of Slurm, one task for each GPU; --output-dir is on a disk that all machines see:
#
#   sbatch recipes/launch/slurm.sh recipes/sentiment.py --output-dir /shared/runs/reviews
#
# Two minutes before its time is up, the training finishes its step, saves, and is queued again, as often as it takes.
# PYTHON: the interpreter that has nlptl (python).
set -uo pipefail

MASTER_ADDR="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"
MASTER_PORT=$((20000 + SLURM_JOB_ID % 10000))
export MASTER_ADDR MASTER_PORT

# Slurm numbers the processes as torch does, under other names. With --resume, a new run starts from the beginning.
# When a process is lost, the others end on their own and repeat its last error; so Slurm does not have to end them.
# shellcheck disable=SC2016
srun --kill-on-bad-exit=0 bash -c '
    export RANK="$SLURM_PROCID" WORLD_SIZE="$SLURM_NTASKS"
    export LOCAL_RANK="$SLURM_LOCALID" LOCAL_WORLD_SIZE="$SLURM_NTASKS_PER_NODE"
    exec "${PYTHON:-python}" "$@"
' nlptl "$@" --resume &
step=$!

# To srun itself the signal would mean to end the processes by force.
trap 'scancel --signal=TERM "$SLURM_JOB_ID.0"' TERM
while kill -0 "$step" 2> /dev/null; do
    wait "$step" # The signal ends the wait, not yet the training.
done
wait "$step" # It has ended: this is its code.
code=$?

if [ "$code" -eq 143 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
