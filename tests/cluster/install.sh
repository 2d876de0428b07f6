#!/usr/bin/env bash
# Install what tests/cluster needs from Debian's packages: Slurm and munge, ssh and pdsh, ip and unshare. It installs only
# what is missing and configures nothing: the tests keep keys, settings and daemons in a folder of their own.
set -euo pipefail

declare -A package=(
    [slurmctld]=slurmctld [slurmd]=slurmd [sbatch]=slurm-client [munged]=munge
    [sshd]=openssh-server [ssh]=openssh-client [pdsh]=pdsh [ip]=iproute2 [unshare]=util-linux
)
missing=()
for program in "${!package[@]}"; do
    PATH="$PATH:/usr/sbin:/sbin" command -v "$program" >/dev/null || missing+=("${package[$program]}")
done
if [ ${#missing[@]} -eq 0 ]; then
    echo "tests/cluster: all programs are here"
    exit 0
fi
if ! command -v apt-get >/dev/null || [ "$(id -u)" -ne 0 ]; then
    echo "tests/cluster: missing ${missing[*]}; this script installs them as root on Debian or Ubuntu" >&2
    exit 1
fi
echo "tests/cluster: installing ${missing[*]}"
apt-get update --quiet --quiet
DEBIAN_FRONTEND=noninteractive apt-get install --quiet --quiet --yes --no-install-recommends "${missing[@]}" >/dev/null
