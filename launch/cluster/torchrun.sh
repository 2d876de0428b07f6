#!/bin/bash
# torchrun, started once on every node; NODE_RANK is 0 on the host MASTER_ADDR and counts up from there:
#
#     NODES=2 NODE_RANK=0 MASTER_ADDR=node1 GPUS=4 launch/cluster/torchrun.sh run.dir=runs/mice --config CONFIG
cd "$(dirname "$0")/../.." || exit
exec torchrun --nnodes "$NODES" --node_rank "$NODE_RANK" --nproc_per_node "${GPUS:-gpu}" \
    --master_addr "$MASTER_ADDR" --master_port "${MASTER_PORT:-29500}" launch/pretrain.py "$@"
