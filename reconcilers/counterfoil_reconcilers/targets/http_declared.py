"""What a contract's words make of an HTTP target: what it can do, and what in them can't be meant."""

import datetime as dt
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import re2

from counterfoil_reconcilers.contract_kinds import Capabilities, Objection
from counterfoil_reconcilers.contract_model import Resource
from counterfoil_reconcilers.targets.http_options import HttpOptions, HttpResource, find_preset
from counterfoil_reconcilers.targets.http_templates import names_in
from counterfoil_reconcilers.targets.port import Kind


@dataclass(frozen=True)
class HttpKind(Kind):
    """The kind `http`: which rows can be listed and found is up to the contract, the windows to its preset."""

    def capabilities_of(self, target: HttpOptions, resources: Sequence[HttpResource]) -> Capabilities:
        """What the resources have in common."""
        window = find_preset(target.preset).idempotent_for_seconds if target.preset else None
        searched = any(resource.find is not None for resource in resources)
        return replace(
            self.capabilities,
            lists=all(resource.listing is not None for resource in resources),
            finds=all(resource.listing is not None or resource.find is not None for resource in resources),
            idempotent_for=None if window is None else dt.timedelta(seconds=window),
            read_lag=dt.timedelta(seconds=target.search_lag_seconds if searched else 0),
        )

    def objections(self, _target: HttpOptions, resource: Resource) -> Iterable[Objection]:
        """Places for what nobody knows, and rows of which nobody could say that they are not there."""
        assert isinstance(resource.options, HttpResource)  # noqa: S101  # this kind says so
        options, whose = resource.options, {resource.tenant} if resource.tenant else set()
        key = set(resource.key)
        if options.listing is None and options.probe is None:
            yield Objection(
                (),
                "404 alone does not say that a row is not there; add list, or a probe that answers while the API does",
            )
        yield from _unknown(("get",), names_in(options.get), key | whose)
        for name in sorted(key - names_in(options.get)):
            yield Objection(("get",), f"get has no place for {name}; write it as {{{name}}}")
        if options.probe is not None:
            yield from _unknown(("probe",), names_in(options.probe), (key & set(options.unheld)) | whose)
        if options.listing is not None:
            yield from _unknown(("list",), options.listing.names, whose)
        if options.find is not None:
            yield from _unknown(("find", "path"), names_in(options.find.path), whose)
        if options.changes is not None:
            yield from _unknown(("changes", "path"), names_in(options.changes.path), whose)
            yield from _unknown(("changes",), options.changes.names - names_in(options.changes.path), {"since", *whose})
            if "since" not in options.changes.names - names_in(options.changes.path):
                yield Objection(
                    ("changes",), "changes has no place for since, so it would list all rows; write {since}"
                )
        yield from _about_unheld(options, key, whose)
        yield from _about_batch(options, key, whose)
        for name, form in options.key_form.items():
            yield from _about_form(name, form, key)


def _unknown(at: tuple[str, ...], names: frozenset[str], known: set[str]) -> Iterator[Objection]:
    for name in sorted(names - known):
        there = f"; there is {', '.join(sorted(known))}" if known else ""
        yield Objection(at, f"{at[0]} has a place for {name}, which nothing can fill there{there}")


def _about_unheld(options: HttpResource, key: set[str], whose: set[str]) -> Iterator[Objection]:
    for name in options.unheld:
        if name not in names_in(options.get):
            yield Objection(("unheld",), f"get has no place for {name}, so nothing at all would say it; take it out")
    if key <= set(options.unheld):
        yield Objection(("unheld",), "a row that shows nothing of its key can't be told from another; take one out")
    listings = [("list", options.listing), ("find", options.find), ("changes", options.changes)]
    for what, listing in ((what, listing) for what, listing in listings if listing is not None):
        if key & set(options.unheld):
            yield Objection((what,), f"rows in {what} do not show all of their key; take {what} out, and add a probe")
        if whose & set(options.unheld) - listing.names:
            yield Objection((what,), f"rows in {what} do not show whose they are, so it needs a place for the tenant")
    for name in sorted(options.held.keys() - key - whose):
        yield Objection(("held", name), f"{name} is neither a key nor the tenant; take it out")


def _about_batch(options: HttpResource, key: set[str], whose: set[str]) -> Iterator[Objection]:
    if options.batch is None:
        return
    if len(key) != 1 or (key | whose) & set(options.unheld):
        yield Objection(("batch",), "only rows that show the one key and the tenant they have can be read in batches")
    yield from _unknown(("batch",), names_in(options.batch.path) | names_in(options.batch.query), whose)


def _about_form(name: str, form: str, key: set[str]) -> Iterator[Objection]:
    if name not in key:
        yield Objection(("key_form", name), f"{name} is no key; there is {', '.join(sorted(key))}")
    try:
        re2.compile(form)
    except re2.error:
        yield Objection(("key_form", name), f"the form of {name} is no regular expression that RE2 reads")
