#!/usr/bin/env bash
# TensorBoard of a run, or of a folder of runs, on a node; its log says how to reach it:
#
#   sbatch slurm/tensorboard.sh --logdir runs
#
# Start it in the folder that holds slurm/. What follows the script goes to tensorboard. To change: the lines below, or the same options
# before the script's name; and slurm/site.env.
#SBATCH --job-name=electra-tensorboard
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --time=8:00:00
#SBATCH --output=%x-%j.log

. "${ELECTRA_SLURM:-slurm}/lib.sh" || { echo "start sbatch in the folder that holds slurm/, or set ELECTRA_SLURM to the folder of the batch scripts" >&2; exit 2; }

# One port for each job, so that two of them can share a node.
port=$((20000 + SLURM_JOB_ID % 10000))
log "on your machine: ssh -N -L 6006:127.0.0.1:$port -J LOGIN_NODE $SLURMD_NODENAME, then http://127.0.0.1:6006"
# It answers on the node itself only: TensorBoard asks nobody for a password.
tasks --ntasks=1 -- tensorboard.main --host 127.0.0.1 --port "$port" "$@"
