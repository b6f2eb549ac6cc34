#!/usr/bin/env bash
# Build a store with many tasks over MPI, of which rank 0 leads the others; a single task uses its own cores.
#
#   sbatch --ntasks=65 slurm/data.sh --config build.yaml
#
# Start it in the folder that holds slurm/. What follows the script goes to `electra-data build`. A build that ran out of time resumes
# when it is submitted again. To change: the lines below, or the same options before the script's name; and
# slurm/site.env, where MPI_TYPE must be one that the MPI library of mpi4py speaks.
#SBATCH --job-name=electra-data
#SBATCH --ntasks=1
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log

. "${ELECTRA_SLURM:-slurm}/lib.sh" || { echo "start sbatch in the folder that holds slurm/, or set ELECTRA_SLURM to the folder of the batch scripts" >&2; exit 2; }

log "$SLURM_TASKS_PER_NODE tasks a node on $SLURM_JOB_NODELIST build a store"
tasks --mpi="$MPI_TYPE" -- data_pipeline build "$@"
