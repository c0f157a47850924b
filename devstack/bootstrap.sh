#!/bin/sh
# Prepares a fresh Debian machine (12 or 13) and this checkout: the Debian packages that are missing, then .venv with
# the project's requirements. One line a step; silent and immediate when there is nothing to do.
set -eu
umask 022
cd "$(dirname "$0")/.."
root=$PWD
venv=$root/.venv
stamp=$venv/.bootstrapped
log=$root/.bootstrap.log

say() { printf 'bootstrap: %s\n' "$*"; }
die() { printf 'bootstrap: %s\n' "$*" >&2; exit 1; }

wanted_stamp() { cat devstack/bootstrap.sh requirements.txt tests/requirements.txt | sha256sum; }

# A python3.12 on the PATH may be a shim that refuses to run: only running a candidate tells.
usable_python() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1; }
complete_python() {
    "$1" -c 'import ensurepip, os, sys, sysconfig, venv
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' >/dev/null 2>&1
}

find_python() { # prints the first interpreter that can make the environment and build gssapi in it
    for name in python3.13 python3.12 python3.11 python3; do
        old_ifs=$IFS; IFS=:
        for directory in $PATH; do
            IFS=$old_ifs
            candidate=$directory/$name
            if [ -x "$candidate" ] && usable_python "$candidate" && complete_python "$candidate"; then
                printf '%s\n' "$candidate"
                return 0
            fi
        done
        IFS=$old_ifs
    done
    return 1
}

usable_java() { # HBase 2.5 runs on 17 to 23
    for candidate in java /usr/lib/jvm/*/bin/java; do
        version=$("$candidate" -version 2>&1 | sed -n 's/.* version "\([0-9]*\).*/\1/p' | head -n 1) || continue
        if [ -n "$version" ] && [ "$version" -ge 17 ] && [ "$version" -lt 24 ]; then return 0; fi
    done
    return 1
}

# Tests look at the pages that `report` writes.
has_browser() { command -v chromium || command -v chromium-browser || command -v google-chrome; } >/dev/null 2>&1

missing_packages() {
    find_python >/dev/null || printf 'python3 python3-venv python3-dev '
    { command -v cc && command -v make; } >/dev/null 2>&1 || printf 'build-essential '
    command -v krb5-config >/dev/null 2>&1 || printf 'libkrb5-dev '
    usable_java || printf 'default-jre-headless '
    command -v mvn >/dev/null 2>&1 || printf 'maven '
    has_browser || printf 'chromium '
    command -v setpriv >/dev/null 2>&1 || printf 'util-linux '
}

install_packages() {
    if [ "$(id -u)" = 0 ]; then as_root=
    elif sudo -n true >/dev/null 2>&1; then as_root=sudo
    else die "these Debian packages are missing, and neither root nor sudo is at hand to install them: $*"
    fi
    command -v apt-get >/dev/null 2>&1 || die "these packages are missing, and this is no Debian to install them on: $*"
    say "installing Debian packages: $*"
    try $as_root apt-get update -qq
    try $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"
}

try() { # runs a command up to three times, its output in the log: a registry may fail once in a while
    for attempt in 1 2 3; do
        if "$@" >"$log" 2>&1; then return 0; fi
        sleep $((attempt * 2))
    done
    tail -n 15 "$log" >&2
    die "failed three times: $*"
}

if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$(wanted_stamp)" ] && usable_python "$venv/bin/python" \
    && command -v mvn >/dev/null 2>&1 && command -v java >/dev/null 2>&1 && has_browser; then
    exit 0
fi

exec 9>"$root/.bootstrap.lock"
flock 9 # two at once would build one environment in each other's way

packages=$(missing_packages)
# Unquoted on purpose: it is a list of words.
# shellcheck disable=SC2086
[ -z "$packages" ] || install_packages $packages
python=$(find_python) || die "no Python 3.11, 3.12 or 3.13 that can make a virtual environment was found"
usable_java || die "no Java from 17 to 23 was found: install the Debian package openjdk-17-jre-headless or openjdk-21-jre-headless"

if [ "$(cat "$stamp" 2>/dev/null || true)" != "$(wanted_stamp)" ] || ! usable_python "$venv/bin/python"; then
    if ! usable_python "$venv/bin/python"; then
        say "making .venv with $python"
        rm -rf "$venv"
        try "$python" -m venv "$venv"
    fi
    rm -f "$stamp"
    say "installing requirements.txt and tests/requirements.txt into .venv"
    try "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r requirements.txt -r tests/requirements.txt
    wanted_stamp >"$stamp"
fi
rm -f "$log"
