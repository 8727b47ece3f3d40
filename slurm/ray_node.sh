# Ray on one node, in the foreground: bash ray_node.sh head|worker ADDRESS PORT. Started by ray_up in common.sh.

# Ray lets anybody write into its folders; theirs is nobody else's.
umask 077
folder=$(mktemp -d "$SCASML_SCRATCH/ray-XXXXXX") || exit 1
trap 'rm -rf "$folder" || rm -rf "$folder"' EXIT
# With --block, all that it starts ends with it.
common=(ray start --block --num-cpus="${SCASML_NODE_CPUS:-$SLURM_CPUS_ON_NODE}" --resources="{\"slurm:$SLURMD_NODENAME\": 1}"
    --temp-dir="$folder/ray" --object-store-memory=100000000 --disable-usage-stats)
node() {
    if [ "$1" = head ]; then
        "${common[@]}" --head --node-ip-address="$2" --port="$3" --ray-client-server-port="$(($3 + 1))" --include-dashboard=false
    else
        until "${common[@]}" --address="$2:$3"; do sleep 1; done
    fi
}
node "$@" &
# From ray_down, or Slurm's when it ends the job. The step ends with this script, and Slurm ends with it what Ray left running.
trap 'kill -TERM $(jobs -p) 2>/dev/null; sleep 1; exit 0' USR2 TERM
wait
