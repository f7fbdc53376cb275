"""What a scope means: read as written, nothing meant by two texts, nothing stopped that is not meant."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterfoil.errors import UsageError
from counterfoil.scope import Acting, Scope

TENANTS = st.from_regex(r"[a-z0-9_-]{1,40}", fullmatch=True)
NAMES = st.text(min_size=1, max_size=40)  # slashes, colons, controls, lone surrogates and all
NAMED = st.sampled_from(["workflow", "agent", "tool"])
SCOPES = st.one_of(
    st.just("everything"),
    TENANTS.map(lambda tenant: f"tenant:{tenant}"),
    st.builds(lambda kind, tenant, name: f"{kind}:{tenant}/{name}", NAMED, TENANTS, NAMES),
)


@given(SCOPES)
def test_a_scope_is_read_as_it_is_written(text: str) -> None:
    scope = Scope.parse(text)
    assert Scope.parse(str(scope)) == scope
    str(scope).encode()


@given(SCOPES, SCOPES)
def test_two_texts_mean_two_scopes(one: str, other: str) -> None:
    if Scope.parse(one) == Scope.parse(other):
        assert str(Scope.parse(one)) == str(Scope.parse(other))
    else:
        assert str(Scope.parse(one)) != str(Scope.parse(other))


@given(NAMED, TENANTS, NAMES, TENANTS, NAMES)
def test_a_name_covers_itself_and_nothing_else(kind: str, tenant: str, name: str, stranger: str, other: str) -> None:
    scope = Scope.parse(f"{kind}:{tenant}/{name}")
    own = {"workflow": "w", "agent": "a", "tool": "t"} | {kind: name}
    assert scope.covers(Acting(tenant, **own))
    assert Scope("tenant", tenant).covers(Acting(tenant, **own))
    assert Scope("everything").covers(Acting(tenant, **own))
    if stranger != tenant:
        assert not scope.covers(Acting(stranger, **own))
        assert not Scope("tenant", tenant).covers(Acting(stranger, **own))
    if other != name and "\\" not in name + other:
        assert not scope.covers(Acting(tenant, **own | {kind: other}))


def test_a_slash_belongs_to_the_name() -> None:
    scope = Scope.parse("tool:acme/crm/orders/refund")
    assert scope == Scope("tool", "acme", "crm/orders/refund")
    assert scope.covers(Acting("acme", "w", "a", "crm/orders/refund"))
    assert not scope.covers(Acting("acme", "w", "a", "crm"))


@pytest.mark.parametrize(
    "text",
    [
        *("", "everything:", "Everything", " everything", "tenant:", "tenant:ACME", "tenant:acme/", "tenant:acme/x"),
        *("tool:acme", "tool:acme/", "tool:/refund", "tool:refund", "tools:acme/refund", "acme/refund", "agent:a b/c"),
        *("task:acme/t", "tool:acme/" + "x" * 4000),
    ],
)
def test_what_is_no_scope_is_refused_with_the_forms(text: str) -> None:
    with pytest.raises(UsageError, match=r"everything, tenant:T, workflow:T/W, agent:T/A or tool:T/X"):
        Scope.parse(text)


@pytest.mark.parametrize(("text", "tenants"), [("everything", {"acme", "beta"}), ("tool:acme/x", {"acme"})])
def test_a_scope_concerns_its_tenant_alone(text: str, tenants: set[str]) -> None:
    assert {tenant for tenant in ("acme", "beta") if Scope.parse(text).concerns(tenant)} == tenants
