#!/usr/bin/env bash
# Write a run's newest checkpoint as Hugging Face checkpoints:
#
#   sbatch slurm/export.sh RUN OUT
#
# Start it in the folder that holds slurm/. What follows the script goes to `electra-scale export`. To change: the lines below, or the
# same options before the script's name; and slurm/site.env.
#SBATCH --job-name=electra-export
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --time=1:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log

. "${ELECTRA_SLURM:-slurm}/lib.sh" || { echo "start sbatch in the folder that holds slurm/, or set ELECTRA_SLURM to the folder of the batch scripts" >&2; exit 2; }

tasks --ntasks=1 -- electra_scale.cli export "$@"
