#!/usr/bin/env bash
#SBATCH --job-name=moecheck
#SBATCH --array=1-8
#SBATCH --nodes=1
#SBATCH --cpus-per-task=8
#SBATCH --time=00:30:00
# sbatch ci/examples/slurm.sh   from a built checkout; each task runs its share of the cases on one node.
set -uo pipefail
cd "${SLURM_SUBMIT_DIR:?sbatch sets it}"

# Sockets and traces belong on the node; the record goes to the shared file system.
export MOECHECK_TMPDIR=${SLURM_TMPDIR:-/dev/shm}
run=.moecheck/slurm/$SLURM_ARRAY_JOB_ID/$SLURM_ARRAY_TASK_ID
build/bin/moecheck run smoke -j 2 --shard "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT" --out "$run"
code=$?
# 5: more tasks than cases.
[ "$code" -eq 5 ] && exit 0
exit "$code"
