#!/bin/sh
# Installs what building and testing need on Debian 12. Root, or sudo.
set -eu
packages="gcc make pkg-config libsqlite3-dev libcjson-dev libopenblas-serial-dev libcmocka-dev"
sudo=
[ "$(id -u)" = 0 ] || sudo=sudo
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086
$sudo apt-get install -y --no-install-recommends $packages >/dev/null 2>&1 && exit 0
$sudo apt-get update
# shellcheck disable=SC2086
$sudo apt-get install -y --no-install-recommends $packages
