# What the batch scripts share. Read after site.sh.

# SIGUSR1 is what they ask Slurm for before the time limit or a preemption; SIGTERM reaches a batch script only when Slurm is
# ending the job, for which somebody may have asked. Both reach the command that runs, at any moment.
stopping=
child=
stop_with() {
    [ "$stopping" = requeue ] || stopping=$1
    [ -z "$child" ] || kill -TERM "$child" 2>/dev/null
}
trap 'stop_with requeue' USR1
trap 'stop_with end' TERM

# supervise COMMAND...: run it, and return its status: 3 where it kept what is finished and stopped early.
supervise() {
    [ -z "$stopping" ] || return 3
    "$@" &
    child=$!
    [ -z "$stopping" ] || kill -TERM "$child" 2>/dev/null
    # A signal ends a wait and not the command.
    while kill -0 "$child" 2>/dev/null; do wait "$child"; done
    wait "$child"
    local status=$?
    child=
    # Before it could listen a signal just ends it.
    if [ -n "$stopping" ] && { [ "$status" -eq 138 ] || [ "$status" -eq 143 ]; }; then status=3; fi
    return "$status"
}

# leave STATUS: end the batch script. A run that stopped early goes back into the queue and resumes from there, and so does,
# SCASML_RETRIES times, one that failed: a node may be lost, or its steps may be preempted before this script hears of it.
leave() {
    local again=no
    case "$1" in
    0 | 2) ;;
    3) again=yes ;;
    *) [ "${SLURM_RESTART_COUNT:-0}" -ge "${SCASML_RETRIES:-3}" ] || again=yes ;;
    esac
    if [ "$again" = yes ] && [ "$stopping" != end ]; then
        scontrol requeue "$SLURM_JOB_ID" || echo "not requeued: submit the same line again to go on" >&2
    fi
    exit "$1"
}

# ray_up: Ray over all nodes of the allocation, each in a step of its own; leaves its address in RAY_ADDRESS.
ray_up() {
    local nodes address port
    mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
    address=$(node_address)
    address=${address:-127.0.0.1}
    # Jobs that share a node must not meet, nor an attempt what a lost one left behind.
    port=$((20000 + (SLURM_JOB_ID * 8 + ${SLURM_RESTART_COUNT:-0} % 4 * 2) % 20000))
    # The cores are the job's own: its workers need not yield to anything.
    export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0 RAY_worker_niceness=0 SCASML_SCRATCH
    RAY_AUTH_TOKEN=$(python3 -c 'import secrets; print(secrets.token_hex(32))')
    export RAY_AUTH_TOKEN
    # A task is a core: of a node with hardware threads, or that the job has to itself, Slurm counts more.
    export SCASML_NODE_CPUS="${SLURM_NTASKS_PER_NODE:-}"
    # What the job was asked for as a whole is not for the step of one node.
    local step=(env -u SLURM_GPUS -u SLURM_GPUS_PER_TASK srun --overlap --quiet --cpu-bind=none --ntasks-per-node=1)
    step+=(${SLURM_GPUS_ON_NODE:+--gpus-per-node="$SLURM_GPUS_ON_NODE"})
    "${step[@]}" --nodes=1 --ntasks=1 --nodelist="${nodes[0]}" bash "$here/ray_node.sh" head "$address" "$port" >/dev/null &
    RAY_STEPS=($!)
    local others=$((${#nodes[@]} - 1))
    if [ "$others" -gt 0 ]; then
        "${step[@]}" --nodes=$others --ntasks=$others --exclude="${nodes[0]}" bash "$here/ray_node.sh" worker "$address" "$port" >/dev/null &
        RAY_STEPS+=($!)
    fi
    export RAY_ADDRESS="$address:$port" SCASML_RAY_NODES="${#nodes[@]}"
}

# ray_down: end the steps of ray_up, without waiting for them longer than the batch script can afford.
ray_down() {
    # srun hands this signal on, where SIGTERM would make it kill the step at once.
    kill -USR2 "${RAY_STEPS[@]}" 2>/dev/null
    local i
    for ((i = 0; i < 50; i++)); do
        kill -0 "${RAY_STEPS[@]}" 2>/dev/null || break
        sleep 0.2
    done
    kill -TERM "${RAY_STEPS[@]}" 2>/dev/null
}
