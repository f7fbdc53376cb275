#!/bin/sh
# What the tests need and Debian does not have, built from the Go module proxy where Go is there (which checks what it
# gets by Go's checksum database): PocketBase, a real REST API for HTTP targets, toxiproxy, which breaks connections, and
# stripe-mock, Stripe's own.
#
# Without Go it says so and ends well: those tests skip themselves, but under CI they fail.
set -eu

# The newest that Go 1.24 builds, and the newest; tests/fix_pocketbase.py, fix_toxiproxy.py and fix_stripe_mock.py name
# the same.
POCKETBASE=0.36.8 TOXIPROXY=2.5.0 STRIPE_MOCK=0.203.0

cache="${XDG_CACHE_HOME:-$HOME/.cache}/counterfoil"
PATH="$PATH:/usr/local/go/bin" # where Go's own archive puts it

# build NAME VERSION MODULE PROGRAM: what `go install MODULE@vVERSION` makes is kept as NAME-VERSION/PROGRAM.
build() {
    folder="$cache/$1-$2"
    [ -x "$folder/$4" ] && return
    if ! command -v go > /dev/null 2>&1; then
        echo "Some tests need $1, and Go (1.24 or newer) to build it." >&2
        return
    fi
    echo "building for the tests: $1 $2 (up to some minutes)"
    building="$(mktemp -d)"
    if GOBIN="$building" CGO_ENABLED=0 go install "$3@v$2"; then
        mkdir -p "$folder"
        mv "$building/$4" "$folder/$4.$$" && mv "$folder/$4.$$" "$folder/$4" # whole or not at all
    else
        echo "could not build $1; the tests that need it say so themselves" >&2
    fi
    rm -rf "$building"
}

build pocketbase "$POCKETBASE" github.com/pocketbase/pocketbase/examples/base base
build toxiproxy "$TOXIPROXY" github.com/Shopify/toxiproxy/v2/cmd/server server
build stripe-mock "$STRIPE_MOCK" github.com/stripe/stripe-mock stripe-mock
