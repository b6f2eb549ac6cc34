# What the batch scripts share: they source it, nobody runs it. Settings are in site.env.
set -uo pipefail

. "${ELECTRA_SLURM:-slurm}/site.env" || exit 2

# A variable cannot hold a list; these hold words.
read -r -a python <<<"$PYTHON"
read -r -a srun_options <<<"$SRUN_OPTIONS"
if [ -n "$NETWORK_INTERFACE" ]; then
  export GLOO_SOCKET_IFNAME="$NETWORK_INTERFACE" NCCL_SOCKET_IFNAME="$NETWORK_INTERFACE"
fi
# srun does not take it over from sbatch by itself.
if [ -n "${SLURM_CPUS_PER_TASK:-}" ]; then
  export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"
fi

say() {
  echo "$(date '+%F %T') job $SLURM_JOB_ID, life $((${SLURM_RESTART_COUNT:-0} + 1)): $*"
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
  # A task that fails does not end the others: they notice by themselves and say why, or are ended after STEP_WAIT.
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
  say "SIG$1: the run saves and stops, by $stop_file"
  mkdir -p "$(dirname "$stop_file")"
  echo "SIG$1 to the batch script" >"$stop_file.new" && mv "$stop_file.new" "$stop_file"
}

# until_signal FILE COMMAND: run a command to its end and give its exit code. A signal to this shell creates FILE with
# the signal's name in it, which is how the tasks hear of it: no signal goes through a launcher.
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
    # A signal ends wait as well, with the command still running.
    [ -n "$interrupted" ] || return "$code"
  done
}

# SLURM's word for what this job is doing; no longer RUNNING once it is cancelled, requeued or out of time.
job_state() {
  scontrol show job -o "$SLURM_JOB_ID" | sed -n 's/.* JobState=\([A-Z_]*\).*/\1/p'
}

# Minutes until SLURM ends this life; nothing for a job without a limit.
minutes_left() {
  local end seconds
  end=$(scontrol show job -o "$SLURM_JOB_ID" | sed -n 's/.* EndTime=\([^ ]*\).*/\1/p')
  # An empty date would be midnight.
  end=$(date -d "${end:-Unknown}" +%s 2>/dev/null) || return 0
  seconds=$((end - $(date +%s)))
  printf '%d.%02d' $((seconds / 60)) $((seconds % 60 * 100 / 60))
}
