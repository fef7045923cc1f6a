"""Classes and weights of tenants in SQL, the same on both stores."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from headway.errors import SettingsError
from headway.keys import new_token
from headway.tenants import CLASSES, checked_weight
from storage.engine import Database
from storage.keys import Keys
from storage.tenants import Tenants


def test_a_tenant_keeps_the_class_it_was_given_and_the_default_one_has_the_first(database: Database) -> None:
    tenants = Tenants(database)
    assert tenants.classes() == {0: 1.0}
    assert [tenants.admit(tenant) for tenant in ("acme", "default", "zeta", "acme")] == [1, 0, 2, 1]
    assert tenants.classes() == {0: 1.0, 1: 1.0, 2: 1.0}


def test_beyond_the_last_class_tenants_share_one_and_the_greatest_of_their_weights(database: Database) -> None:
    tenants = Tenants(database)
    given = [tenants.admit(f"t{n}") for n in range(CLASSES + 2)]
    assert given == [*range(1, CLASSES), 0, 1, 2]
    tenants.weigh(f"t{CLASSES}", 5)
    assert tenants.admit(f"t{CLASSES}") == 1
    assert tenants.classes() == {n: 5.0 if n == 1 else 1.0 for n in range(CLASSES)}


def test_a_tenant_may_be_weighed_before_and_after_it_was_seen(database: Database) -> None:
    tenants = Tenants(database)
    tenants.weigh("acme", 0.5)
    assert tenants.classes() == {0: 1.0, 1: 0.5}
    tenants.weigh("acme", 4)
    assert (tenants.classes()[1], tenants.admit("acme")) == (4.0, 1)


def test_many_who_see_a_tenant_at_once_agree_on_its_class(database: Database) -> None:
    with ThreadPoolExecutor(8) as threads:
        assert len(set(threads.map(lambda _: Tenants(database).admit("acme"), range(32)))) == 1


def test_the_first_key_of_a_tenant_gives_it_its_class(database: Database) -> None:
    keys = Keys(database)
    first = keys.add(new_token(), tenant_id="acme", scopes=("read",), name="")
    limited = keys.add(new_token(), tenant_id="acme", scopes=("read",), name="", rate=2.5)
    assert Tenants(database).classes() == {0: 1.0, 1: 1.0}
    assert (first.rate, limited.rate, limited.weight) == (None, 2.5, 1.0)
    Tenants(database).weigh("acme", 3)
    assert [key.weight for key in keys.all()] == [3.0, 3.0]


@pytest.mark.parametrize("weight", [0, -1, 101, float("nan"), float("inf")])
def test_a_weight_is_a_moderate_positive_number(weight: float) -> None:
    with pytest.raises(SettingsError):
        checked_weight(weight)
