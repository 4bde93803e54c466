#!/bin/bash
# Train on several nodes under SLURM; goes on by itself when it is requeued.
#
#   sbatch --nodes 2 --gpus-per-node 8 examples/slurm_train.sh my_config.py runs/mine
#
#SBATCH --job-name swath
#SBATCH --ntasks-per-node 1
#SBATCH --cpus-per-task 64
#SBATCH --signal TERM@120
#SBATCH --requeue
set -euo pipefail

config=$1
run_dir=$2
first_node=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

srun torchrun \
    --nnodes "$SLURM_NNODES" \
    --nproc-per-node "$SLURM_GPUS_ON_NODE" \
    --rdzv-backend c10d \
    --rdzv-id "$SLURM_JOB_ID" \
    --rdzv-endpoint "$first_node:29500" \
    --max-restarts 3 \
    --no-python swath train "$config" --run-dir "$run_dir" --resume "${@:3}"
