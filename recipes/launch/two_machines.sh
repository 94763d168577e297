#!/usr/bin/env bash
# Two machines, or more. The same on each of them, but for NODE_RANK:
#
#   MASTER_ADDR=10.0.0.1 NODE_RANK=0 bash recipes/launch/two_machines.sh recipes/sentiment.py --output-dir /shared/run
#   MASTER_ADDR=10.0.0.1 NODE_RANK=1 bash recipes/launch/two_machines.sh recipes/sentiment.py --output-dir /shared/run
#
# MASTER_ADDR     address of the machine with NODE_RANK=0, as the others reach it
# NODE_RANK       number of this machine, from 0 on
# MASTER_PORT     a free port of the machine with NODE_RANK=0 (29500)
# NNODES          machines (2)
# NPROC_PER_NODE  processes on this machine (gpu: one for each GPU)
# PYTHON          the interpreter that has nlptl (python)
set -euo pipefail

# A process that is asked to end finishes its step and its checkpoint first.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT="${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-120}"

exec "${PYTHON:-python}" -m torch.distributed.run \
    --nnodes "${NNODES:-2}" \
    --node_rank "${NODE_RANK:?number of this machine, from 0 on}" \
    --nproc_per_node "${NPROC_PER_NODE:-gpu}" \
    --master_addr "${MASTER_ADDR:?address of the machine with NODE_RANK=0}" \
    --master_port "${MASTER_PORT:-29500}" \
    "$@"
