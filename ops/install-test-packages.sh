#!/bin/sh
# The Debian packages that the tests need and pip can't bring. `make test` runs it first.
#
# With root, apt-get and dpkg it installs what is missing, without starting any service; otherwise it says what is
# missing and how to get it, and ends well: those tests skip themselves, but under CI they fail.
set -eu

# package:program
WANTED="prometheus:promtool"

missing=""
for pair in $WANTED; do
    command -v "${pair#*:}" > /dev/null 2>&1 || missing="$missing ${pair%%:*}"
done
missing="${missing# }"
[ -n "$missing" ] || exit 0

if [ "$(id -u)" != 0 ] || ! command -v apt-get > /dev/null 2>&1 || ! command -v dpkg > /dev/null 2>&1; then
    echo "The tests of the Prometheus rules need: $missing" >&2
    echo "On Debian or Ubuntu, as root: apt-get install --no-install-recommends $missing" >&2
    echo "Elsewhere: put promtool on PATH; it is part of every Prometheus release." >&2
    exit 0
fi

# A policy of ours forbids starting services while the packages settle; one that is already there is put back.
# RUNLEVEL=1 says the same to invoke-rc.d.
policy=/usr/sbin/policy-rc.d
kept=""
if [ -e "$policy" ] || [ -L "$policy" ]; then
    kept="$policy.before-counterfoil.$$"
    mv "$policy" "$kept"
fi
put_back() {
    rm -f "$policy"
    [ -z "$kept" ] || mv "$kept" "$policy"
}
trap put_back EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
printf '#!/bin/sh\nexit 101\n' > "$policy"
chmod 755 "$policy"

export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
echo "installing for the tests: $missing"
install() {
    # shellcheck disable=SC2086 # a list of names
    apt-get install --yes --quiet --no-install-recommends -o Dpkg::Use-Pty=0 $missing
}
log="$(mktemp)"
if ! install > "$log" 2>&1 && ! { apt-get update --quiet > "$log" 2>&1 && install >> "$log" 2>&1; }; then
    tail -n 20 "$log" >&2
    rm -f "$log"
    echo "could not install: $missing; the tests that need it say so themselves" >&2
    exit 0
fi
rm -f "$log"

# Nor at the next boot: the tests need a program, nobody asked for a server.
if command -v systemctl > /dev/null 2>&1; then
    for package in $missing; do
        systemctl --quiet disable "$package.service" > /dev/null 2>&1 || true
    done
fi
