# Functions that the batch scripts share. They source this file; it is not a script to start. Settings are in site.env.
set -uo pipefail

. "${ELECTRA_SLURM:-slurm}/site.env" || exit 2

# An environment variable cannot hold a list; these two hold words.
read -r -a python <<<"$PYTHON"
read -r -a srun_options <<<"$SRUN_OPTIONS"
if [ -n "$NETWORK_INTERFACE" ]; then
  export GLOO_SOCKET_IFNAME="$NETWORK_INTERFACE" NCCL_SOCKET_IFNAME="$NETWORK_INTERFACE"
fi
# srun does not take the cores of a task from sbatch.
if [ -n "${SLURM_CPUS_PER_TASK:-}" ]; then
  export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"
fi

# log TEXT: a line in the job's log, with the time and the number of this start of the job.
log() {
  echo "$(date '+%F %T') job $SLURM_JOB_ID, start $((${SLURM_RESTART_COUNT:-0} + 1)): $*"
}

# electra MODULE ARGUMENTS: run a module of python here.
electra() {
  "${python[@]}" -m "$@"
}

# tasks [OPTIONS OF srun] -- MODULE ARGUMENTS: run a module in every task.
tasks() {
  local options=()
  while [ "$1" != -- ]; do
    options+=("$1")
    shift
  done
  shift
  # A task that fails does not end the others: they notice it and log why they stop, or are ended after STEP_WAIT.
  srun --kill-on-bad-exit=0 --wait="$STEP_WAIT" "${srun_options[@]}" "${options[@]}" "${python[@]}" -m "$@"
}

# listen: from here on no signal ends this shell; each asks the tasks to stop, once until_signal has named a file.
stop_file=
asked=
listen() {
  local name
  for name in USR1 USR2 HUP INT TERM; do
    trap "ask_to_stop $name" "$name"
  done
}

ask_to_stop() {
  interrupted=1
  asked="$1"
  [ -n "$stop_file" ] || return 0
  log "SIG$1: the run is asked to save and stop, through $stop_file"
  mkdir -p "$(dirname "$stop_file")"
  echo "SIG$1 to the batch script" >"$stop_file.new" && mv "$stop_file.new" "$stop_file"
}

# until_signal FILE COMMAND: run a command to its end and give its exit code. A signal to this shell creates FILE with
# the signal's name in it, which the tasks look for: no signal goes through a launcher.
until_signal() {
  local child code
  stop_file="$1"
  shift
  [ -z "$asked" ] || ask_to_stop "$asked"
  "$@" &
  child=$!
  while :; do
    interrupted=
    wait "$child"
    code=$?
    # A signal ends `wait` too, while the command is still running.
    [ -n "$interrupted" ] || return "$code"
  done
}

# The state of this job in SLURM's terms; no longer RUNNING once it is cancelled, requeued or out of time.
job_state() {
  scontrol show job -o "$SLURM_JOB_ID" | sed -n 's/.* JobState=\([A-Z_]*\).*/\1/p'
}

# Minutes until SLURM ends this start of the job; nothing for a job without a limit.
minutes_left() {
  local end seconds
  end=$(scontrol show job -o "$SLURM_JOB_ID" | sed -n 's/.* EndTime=\([^ ]*\).*/\1/p')
  # For an empty text date would give midnight.
  end=$(date -d "${end:-Unknown}" +%s 2>/dev/null) || return 0
  seconds=$((end - $(date +%s)))
  printf '%d.%02d' $((seconds / 60)) $((seconds % 60 * 100 / 60))
}
