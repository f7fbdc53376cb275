#!/bin/sh
# PocketBase, a real REST API for the tests of HTTP targets, built from the Go module proxy where Go is there.
#
# Without Go it says so and ends well: those tests skip themselves, but under CI they fail.
set -eu

VERSION=0.36.8 # the newest that Go 1.24 builds; tests/fix_pocketbase.py names the same

folder="${XDG_CACHE_HOME:-$HOME/.cache}/counterfoil/pocketbase-$VERSION"
[ -x "$folder/base" ] && exit 0

PATH="$PATH:/usr/local/go/bin" # where Go's own archive puts it
if ! command -v go > /dev/null 2>&1; then
    echo "The tests of HTTP targets need PocketBase, and Go (1.24 or newer) to build it." >&2
    exit 0
fi
echo "building for the tests: PocketBase $VERSION (some minutes)"
building="$(mktemp -d)"
trap 'rm -rf "$building"' EXIT
if GOBIN="$building" CGO_ENABLED=0 go install "github.com/pocketbase/pocketbase/examples/base@v$VERSION"; then
    mkdir -p "$folder"
    mv "$building/base" "$folder/base.$$" && mv "$folder/base.$$" "$folder/base" # whole or not at all
else
    echo "could not build PocketBase; the tests that need it say so themselves" >&2
fi
