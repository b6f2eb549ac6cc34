#!/usr/bin/env bash
# Pre-train a recipe, one task for each device, and requeue the job until the run is finished:
#
#   sbatch slurm/pretrain.sh --config base --data.store STORE --run_dir RUN
#
# Start it in the folder that holds slurm/. What follows the script goes to electra_scale.pretrain. To change: the lines below, or the
# same options before the script's name, which win; and slurm/site.env for python, container, network and partition.
#SBATCH --job-name=electra-pretrain
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
##SBATCH --gpus-per-node=8
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log

. "${ELECTRA_SLURM:-slurm}/lib.sh" || { echo "start sbatch in the folder that holds slurm/, or set ELECTRA_SLURM to the folder of the batch scripts" >&2; exit 2; }

listen
run=$(electra electra_scale.commands.requeue folder "$@") || exit 2
stop="$run/stop-$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}"
log "$SLURM_TASKS_PER_NODE tasks a node on $SLURM_JOB_NODELIST train $run"
code=0
if [ "$GATE" = yes ]; then
  until_signal "$stop" tasks -- electra_scale.cli doctor --short "$@"
  code=$?
  [ "$code" = 0 ] || log "no training starts: the check of the nodes ended with code $code; GATE in site.env turns it off"
fi
if [ "$code" = 0 ]; then
  minutes=$(minutes_left)
  until_signal "$stop" tasks -- electra_scale.pretrain "$@" \
    --resume auto --stop_file "$stop" ${minutes:+--time_slice_minutes "$minutes"}
  code=$?
  log "the tasks ended with code $code"
fi

# Cancelled, requeued or out of time: SLURM has decided, and a requeue from here would bring a cancelled job back.
state=$(job_state)
if [ "$state" != RUNNING ]; then
  log "SLURM has ended this start of the job ($state)"
  exit "$code"
fi
decision=$(electra electra_scale.commands.requeue decide "$run" \
  --job "$SLURM_JOB_ID" --code "$code" --most_idle "${MOST_IDLE_STARTS:-3}")
answer=$?
log "$decision"
case "$answer" in
  0) exit 0 ;;
  75) scontrol requeue "$SLURM_JOB_ID" ;;
  *) exit "$((code ? code : 1))" ;;
esac
