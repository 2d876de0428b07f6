#!/bin/bash
# All nodes of launch/cluster/hostfile from one terminal, over ssh without a password and pdsh:
#
#     launch/cluster/hostfile.sh run.dir=runs/mice --config launch/configs/steinmetz2019.yaml
#
# Every node needs the same repository and environment under the same paths, and must see the data and run.dir. Variables
# that other nodes need go into a file .deepspeed_env here or at home, a NAME=VALUE a line (such as OMP_NUM_THREADS=8).
cd "$(dirname "$0")/../.." || exit
exec deepspeed --hostfile "${HOSTFILE:-launch/cluster/hostfile}" --master_port "${MASTER_PORT:-29500}" launch/pretrain.py "$@"
