#!/bin/sh
# The Debian packages that the tests need and pip can't bring. `make test` runs it first.
#
# With root, apt-get and dpkg it installs what is missing, without starting any service; otherwise it says what is
# missing and how to get it, and ends well: those tests skip themselves, but under CI they fail.
set -eu

"$(dirname "$0")/install-go-programs.sh"
"$(dirname "$0")/install-recordings.sh"

# package:program:service
WANTED="prometheus:promtool:prometheus postgresql-15:/usr/lib/postgresql/15/bin/postgres:postgresql pgbouncer:pgbouncer:pgbouncer mariadb-server-core:mariadbd:mariadb redis-server:redis-server:redis-server dovecot-imapd:/usr/lib/dovecot/imap:dovecot faketime:faketime:"

PATH="$PATH:/usr/sbin" # where Debian has pgbouncer
missing="" services=""
for wanted in $WANTED; do
    program="${wanted#*:}"
    command -v "${program%:*}" > /dev/null 2>&1 && continue
    missing="$missing ${wanted%%:*}"
    services="$services ${wanted##*:}"
done
missing="${missing# }"
[ -n "$missing" ] || exit 0

if [ "$(id -u)" != 0 ] || ! command -v apt-get > /dev/null 2>&1 || ! command -v dpkg > /dev/null 2>&1; then
    echo "The tests of the Prometheus rules, the oldest Postgres, PgBouncer, MariaDB, Redis, e-mail and wrong clocks need: $missing" >&2
    echo "On Debian 12, as root: apt-get install --no-install-recommends $missing" >&2
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
# Nor is a cluster of Debian's own made: the tests make theirs. An empty file says what no file says.
clusters=/etc/postgresql-common/createcluster.conf
is_ours=""
if [ ! -e "$clusters" ]; then
    is_ours=yes
    mkdir -p "${clusters%/*}"
    echo "create_main_cluster = false" > "$clusters"
fi
put_back() {
    [ -z "$is_ours" ] || : > "$clusters"
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
    apt-get install --yes --quiet --no-install-recommends -o Dpkg::Use-Pty=0 -o Dpkg::Options::=--force-confold "$1"
}
log="$(mktemp)"
is_updated=""
for package in $missing; do # one by one: Debian 13 has no postgresql-15, and the others all the same
    install "$package" > "$log" 2>&1 && continue
    if [ -z "$is_updated" ]; then
        is_updated=yes
        apt-get update --quiet > "$log" 2>&1 && install "$package" >> "$log" 2>&1 && continue
    fi
    tail -n 20 "$log" >&2
    echo "could not install $package; the tests that need it say so themselves" >&2
done
rm -f "$log"

# Nor at the next boot: the tests need a program, nobody asked for a server.
if command -v systemctl > /dev/null 2>&1; then
    for service in $services; do
        systemctl --quiet disable "$service.service" > /dev/null 2>&1 || true
    done
fi
