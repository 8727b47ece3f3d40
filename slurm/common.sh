# What the batch scripts share. Read after site.sh.

# supervise COMMAND...: run it; SIGUSR1 and SIGTERM reach it as SIGTERM, upon which it keeps what is finished and leaves
# with status 3. Returns its status.
supervise() {
    "$@" &
    local child=$! status
    trap 'kill -TERM '"$child"' 2>/dev/null' USR1 TERM
    while true; do
        wait "$child"
        status=$?
        # A signal ends the wait and not the command.
        kill -0 "$child" 2>/dev/null || break
    done
    trap - USR1 TERM
    return "$status"
}

# leave STATUS: end the batch script; a run that stopped early goes back into the queue and resumes from there.
leave() {
    if [ "$1" -eq 3 ]; then
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
    export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0 RAY_worker_niceness=0
    RAY_AUTH_TOKEN=$(python3 -c 'import secrets; print(secrets.token_hex(32))')
    export RAY_AUTH_TOKEN
    export SCASML_RAY_DIR="$SCASML_SCRATCH/ray-$SLURM_JOB_ID"
    # A step that is started by `ray start` without --block would leave processes behind.
    srun --overlap --nodes=1 --ntasks=1 --ntasks-per-node=1 --nodelist="${nodes[0]}" bash -c '
        exec ray start --block --head --node-ip-address="$0" --port="$1" --ray-client-server-port="$(($1 + 1))" \
            --num-cpus="$SLURM_CPUS_ON_NODE" --resources="{\"slurm:$SLURMD_NODENAME\": 1}" --temp-dir="$SCASML_RAY_DIR" \
            --include-dashboard=false --object-store-memory=100000000 --disable-usage-stats' "$address" "$port" >/dev/null &
    RAY_STEPS=($!)
    if [ "${#nodes[@]}" -gt 1 ]; then
        srun --overlap --nodes=$((${#nodes[@]} - 1)) --ntasks=$((${#nodes[@]} - 1)) --ntasks-per-node=1 --exclude="${nodes[0]}" bash -c '
            until ray start --block --address="$0:$1" --num-cpus="$SLURM_CPUS_ON_NODE" \
                --resources="{\"slurm:$SLURMD_NODENAME\": 1}" --object-store-memory=100000000 --disable-usage-stats; do sleep 1; done' \
            "$address" "$port" >/dev/null &
        RAY_STEPS+=($!)
    fi
    export RAY_ADDRESS="$address:$port" SCASML_RAY_NODES="${#nodes[@]}"
}

# ray_down: end the steps of ray_up.
ray_down() {
    kill -TERM "${RAY_STEPS[@]}" 2>/dev/null
    wait "${RAY_STEPS[@]}" 2>/dev/null
    rm -rf "$SCASML_RAY_DIR"
}
