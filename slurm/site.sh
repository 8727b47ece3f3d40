# The one place that knows this cluster. Every batch script reads it, on all nodes' behalf; `scasml submit --slurm` reads it
# before it calls sbatch. For plain sbatch: `source slurm/site.sh` first, so that sbatch sees the SBATCH_ variables.

# What sbatch is told where its command line says nothing else.
#export SBATCH_ACCOUNT=my_project
#export SBATCH_PARTITION=batch
#export SBATCH_QOS=normal
#export SBATCH_CONSTRAINT=avx512

# Software: modules, or the environment that holds scasml. By default the one that submits, else .venv where it does.
#module purge && module load python/3.12 mpich/4.2
command -v scasml >/dev/null || PATH="${SLURM_SUBMIT_DIR:-$PWD}/.venv/bin:$PATH"

# srun's plugin for the site's MPI library: pmi2 for MPICH, Cray and Intel MPI; pmix for Open MPI (`srun --mpi=list`).
#export SCASML_SRUN_MPI=pmix

# How often a job that fails goes back into the queue by itself. Slurm's own preemption sends the batch scripts no SIGUSR1
# unless slurm.conf has PreemptParameters=send_user_signal; a run whose steps are just ended then counts as one that failed.
#export SCASML_RETRIES=3

# A disk of each node for Ray's sockets and logs; the path has to be short.
SCASML_SCRATCH="${TMPDIR:-/tmp}"

# The address of this node that the others reach, for Ray; by default its first one. With a fast network of its own:
#node_address() { ip -4 -o addr show ib0 | awk '{ sub("/.*", "", $4); print $4 }'; }
node_address() { hostname -I | awk '{ print $1 }'; }
