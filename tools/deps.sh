#!/bin/sh
# Installs what building and testing need on Debian 12. Root, or sudo. OpenBLAS in its pthread build:
# the serial one gives wrong numbers when several threads call it. Not installed, but used where they
# are: MPI for sweeps on several machines (openmpi-bin libopenmpi-dev), CUDA for GPUs, and NCCL for
# what they send one another (libnccl-dev of NVIDIA's repository).
set -eu
packages="gcc make pkg-config libsqlite3-dev libcjson-dev libopenblas-pthread-dev libcmocka-dev
libpcre2-dev libutf8proc-dev libsentencepiece-dev g++"
sudo=
[ "$(id -u)" = 0 ] || sudo=sudo
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086
$sudo apt-get install -y --no-install-recommends $packages >/dev/null 2>&1 && exit 0
$sudo apt-get update
# shellcheck disable=SC2086
$sudo apt-get install -y --no-install-recommends $packages
