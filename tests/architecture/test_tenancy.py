# SPDX-License-Identifier: Apache-2.0
"""No organization sees another: the whole catalogue is asked, and so is the live database.

Each check of the catalogue is also shown a fault, planted in a transaction that is rolled back.
"""

from collections.abc import Callable, Iterable, Iterator
from uuid import UUID

import psycopg
import pytest
from psycopg import sql

from nimbus.base.config import Settings
from nimbus.base.secrets import database_login
from tests.architecture import schema
from tests.architecture.schema import APPLICATION_ROLES, Connection
from tests.architecture.tree import assert_none

PLATFORM_TABLES = {
    "abuse_alerts": "what gateways found suspicious; the operator's, nimbus_app has no grant on it",
    "alembic_version": "the schema's own revision",
    "blocks": "whom the operator refuses for a time; nimbus_app has no grant on it",
    "gateway_instances": "the installation's gateway processes and how far they are",
    "grant_feed": "numbers of changes; ids only",
    "one_time_links": "a person's, not an organization's; policies by user",
    "mailbox": "mail kept instead of sent, for platform admins; nimbus_app has no grant on it",
    "procrastinate_events": "the job queue; its jobs carry ids only",
    "procrastinate_jobs": "the job queue",
    "procrastinate_periodic_defers": "the job queue",
    "procrastinate_workers": "the job queue",
    "proof_runs": "what the nightly proofs found; the operator's, nimbus_app has no grant on it",
    "terms_versions": "the operator's terms, the same for all",
    "test_clock": "one instant for the whole installation",
    "throttles": "hashed buckets of who tries too often, before anyone is known",
    "usage_retired": "how many calls of each gateway went with a month; no customer in it",
    "usage_producers": "how far each gateway's journal has been stored; no customer in it",
    "users": "people, who may belong to several organizations; policies by user",
}
OPEN_TABLES = {
    "procrastinate_events": "whoever enqueues writes the event of it, and reads none",
    "procrastinate_jobs": "whoever changes something enqueues, and reads no more than the new id",
    "terms_versions": "anyone may read the terms",
    "test_clock": "every transaction asks what time it is",
}
UNIQUE_OVER_ALL = {
    "api_key_hashes (key_hash)": "a secret never comes back, whoever had it; 256 random bits",
    "api_keys (key_hash)": "a key names its owner, and nobody can choose its hash",
    "api_keys (retired_hash)": "as above",
    "ledger_transfers (source_kind, source_id, leg)": "a fact is posted once, whoever's it is",
    "organizations (slug)": "part of an address; made unique by us, never refused by it",
    "product_hosts (name)": "a name leads to one product, and whoever asks it hears which",
    "products (slug)": "part of the address that everyone calls; taken names are public",
    "sellers (current)": "one organization sells on an installation, and everyone may know which",
}
DEFINER_FUNCTIONS = {
    "access_key_by_hash": "a key is looked up before its organization is known",
    "audit_append": "the chain's head is read and moved without a grant on either table",
    "catalog_operator": "whose product is meant is public; the seller's row is not",
    "gateway_alert": "what a gateway found suspicious; it has no grant on any table",
    "gateway_confirm": "a gateway says how far it is",
    "gateway_feed": "what changed, for gateways, which have no grant on any table",
    "gateway_give_back": "units that a gateway had borrowed and no longer needs",
    "gateway_hello": "a gateway says that it is there",
    "gateway_key": "a key that a gateway does not know yet, and what it needs",
    "gateway_lease": "units of a quota, borrowed by gateways, which have no grant on any table",
    "gateway_snapshot": "what holds, for gateways, which have no grant on any table",
    "grant_feed_note": "whoever changes what gateways know numbers the change, and reads none",
    "identity_invitation": "a token is looked up before anyone is known",
    "identity_last_owner": "owners are locked and counted in one step",
    "identity_link": "a token is looked up before anyone is known",
    "identity_session": "a token is looked up before anyone is known",
    "identity_user_by_email": "sign-in comes before anyone is known",
    "keep_key_hash": "every key's hash is kept for ever, and nobody may write the list",
    "key_quota_changed": "standings follow a key's quota; who changes it may not write one",
    "ledger_append": "the book is added to by this alone; nobody has a grant on its table",
    "spend_follow": "the next month is opened for limits of which usage owns no row",
    "spend_limit_changed": "standings follow a limit; who changes it may not write one",
    "spend_open": "a month's standings are limited by rows of other rooms",
    "throttle_take": "a visitor may take from a bucket without seeing the others",
    "usage_consumers": "a provider reads the names of those who subscribe to it, and no more",
    "usage_cut_addresses": "events are only ever added; their addresses alone are cut, in time",
    "usage_partition": "partitions are made ahead by who stores usage and owns nothing",
    "usage_retire": "months are dropped by who keeps house and owns nothing",
}
GATEWAY_FUNCTIONS = {
    "gateway_alert",
    "gateway_confirm",
    "gateway_feed",
    "gateway_give_back",
    "gateway_hello",
    "gateway_key",
    "gateway_lease",
    "gateway_snapshot",
}

ALICE = UUID("a0000000-0000-7000-8000-000000000001")
BOB = UUID("b0000000-0000-7000-8000-000000000002")


@pytest.fixture(scope="module")
def settings(server) -> Iterator[Settings]:
    """One database for this file: the tests only read it, or roll back."""
    name = sql.Identifier("test_tenancy")
    server.execute(
        sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(name, sql.Identifier("template_nimbus"))
    )
    settings = server.settings("test_tenancy")
    with psycopg.connect(**database_login(settings, "system")) as connection:
        schema.seed_canaries(connection, [ALICE, BOB])
    yield settings
    server.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))


@pytest.fixture
def owner(settings: Settings) -> Iterator[Connection]:
    """A connection that may read everything and change the schema; rolled back at the end."""
    with psycopg.connect(**database_login(settings, "owner")) as connection:
        connection.execute("SET ROLE nimbus_owner")
        yield connection
        connection.rollback()


@pytest.fixture
def app(settings: Settings) -> Iterator[Connection]:
    """A connection as nimbus_app without any setting, as it comes new into the pool."""
    with psycopg.connect(**database_login(settings, "app")) as connection:
        yield connection
        connection.rollback()


def test_every_table_has_an_organization_or_a_reason(owner: Connection) -> None:
    found = schema.platform_tables(owner)

    assert_none(list(schema.unlisted(found, PLATFORM_TABLES, "table")))


def test_tables_without_row_level_security_are_open_for_a_reason(owner: Connection) -> None:
    assert_none(list(schema.unlisted(schema.open_tables(owner), OPEN_TABLES, "table")))


def test_every_tenant_table_forces_row_level_security(owner: Connection) -> None:
    assert_none(list(schema.unforced_tables(owner)))


def test_every_granted_verb_is_narrowed_by_a_policy(owner: Connection) -> None:
    assert_none(list(schema.loose_policies(owner)))


def test_foreign_keys_between_tenant_tables_include_the_organization(owner: Connection) -> None:
    assert_none(list(schema.foreign_keys_across(owner)))


def test_unique_constraints_include_the_organization_or_have_a_reason(owner: Connection) -> None:
    assert_none(list(schema.unlisted(schema.unique_across(owner), UNIQUE_OVER_ALL, "unique")))


def test_functions_with_their_owner_s_rights_are_listed_and_closed(owner: Connection) -> None:
    assert_none(list(schema.unlisted(schema.definers(owner), DEFINER_FUNCTIONS, "function")))
    assert_none(list(schema.open_definers(owner)))


def test_views_read_with_the_rights_of_who_asks(owner: Connection) -> None:
    assert_none(list(schema.unsafe_views(owner)))


def test_the_application_s_roles_own_nothing_and_act_as_nobody(owner: Connection) -> None:
    assert_none(list(schema.owned(owner)))


def test_only_the_system_role_passes_row_level_security(owner: Connection) -> None:
    rows = owner.execute(
        "SELECT rolname::text, rolbypassrls, rolsuper OR rolcreatedb OR rolcreaterole"
        " OR rolreplication FROM pg_roles WHERE rolname = ANY (%s)",
        (APPLICATION_ROLES,),
    ).fetchall()

    assert sorted(rows) == [
        ("nimbus_app", False, False),
        ("nimbus_gateway", False, False),
        ("nimbus_system", True, False),
    ]


def test_no_role_of_the_application_may_truncate_or_add_triggers(owner: Connection) -> None:
    verbs = "TRUNCATE REFERENCES TRIGGER"

    assert_none(list(schema.privileges(owner, [*APPLICATION_ROLES, "public"], verbs)))


def test_partitions_are_reached_through_their_parents_only(owner: Connection) -> None:
    verbs = "SELECT INSERT UPDATE DELETE"
    roles = ["nimbus_app", "nimbus_gateway", "public"]

    assert_none(list(schema.privileges(owner, roles, verbs, partitions=True)))


def test_the_gateway_s_role_executes_its_functions_and_reads_no_table(owner: Connection) -> None:
    verbs = "SELECT INSERT UPDATE DELETE"

    assert_none(list(schema.privileges(owner, ["nimbus_gateway", "public"], verbs)))
    assert schema.gateway_functions(owner) == GATEWAY_FUNCTIONS


def test_no_role_of_the_application_may_make_things(owner: Connection) -> None:
    for role in [*APPLICATION_ROLES, "public"]:
        row = owner.execute("SELECT has_schema_privilege(%s, 'public', 'CREATE')", (role,))
        assert row.fetchone() == (False,), role


SHOP = "CREATE TABLE shop (organization_id uuid, id uuid PRIMARY KEY, name text UNIQUE)"
FORCED = f"{SHOP}; ALTER TABLE shop ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY"
GRANTED = f"{FORCED}; GRANT SELECT ON shop TO nimbus_app"
PARTITIONED = (
    "CREATE TABLE shop (organization_id uuid) PARTITION BY HASH (organization_id);"
    "CREATE TABLE shop_0 PARTITION OF shop FOR VALUES WITH (MODULUS 1, REMAINDER 0)"
)
MISSING_OK = "current_setting('nimbus.organization_id', true)::uuid"


def of(*names: str, verbs: str, **options: bool) -> Callable[[Connection], Iterable[str]]:
    return lambda connection: schema.privileges(connection, list(names), verbs, **options)


@pytest.mark.parametrize(
    ("check", "fault"),
    [
        (schema.unforced_tables, SHOP),
        (schema.unforced_tables, f"{SHOP}; ALTER TABLE shop ENABLE ROW LEVEL SECURITY"),
        (schema.loose_policies, GRANTED),
        (schema.loose_policies, f"{GRANTED}; CREATE POLICY p ON shop TO nimbus_app USING (true)"),
        (
            schema.loose_policies,
            f"{GRANTED}; CREATE POLICY p ON shop USING (organization_id = {MISSING_OK})",
        ),
        (schema.unique_across, SHOP),
        (
            schema.foreign_keys_across,
            "CREATE TABLE shop (organization_id uuid, x uuid REFERENCES outbox (id))",
        ),
        (schema.platform_tables, "CREATE TABLE shop (id uuid)"),
        (
            schema.open_definers,
            "CREATE FUNCTION f() RETURNS int LANGUAGE sql SECURITY DEFINER RETURN 1",
        ),
        (schema.unsafe_views, f"{SHOP}; CREATE VIEW v AS TABLE shop"),
        (of("nimbus_app", verbs="TRUNCATE"), f"{SHOP}; GRANT TRUNCATE ON shop TO nimbus_app"),
        (of("nimbus_gateway", verbs="SELECT"), f"{SHOP}; GRANT SELECT ON shop TO PUBLIC"),
        (
            of("nimbus_app", verbs="SELECT", partitions=True),
            f"{PARTITIONED}; GRANT SELECT ON shop_0 TO nimbus_app",
        ),
    ],
)
def test_a_planted_hole_is_found(
    check: Callable[[Connection], Iterable[str]], fault: str, owner: Connection
) -> None:
    before = set(check(owner))
    owner.execute(fault)

    assert set(check(owner)) - before


def count(connection: Connection, table: str) -> None:
    connection.execute(sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(table)))


def test_nobody_in_particular_gets_an_error_and_no_rows(app: Connection) -> None:
    with pytest.raises(psycopg.errors.UndefinedObject):
        count(app, "outbox")


def test_what_a_finished_transaction_leaves_behind_gets_an_error(app: Connection) -> None:
    app.execute("SELECT set_config('nimbus.organization_id', %s, true)", (str(ALICE),))
    count(app, "outbox")
    app.commit()

    left = app.execute("SELECT current_setting('nimbus.organization_id')").fetchone()
    assert left == ("",)
    with pytest.raises(psycopg.errors.InvalidTextRepresentation):
        count(app, "outbox")


def test_each_organization_sees_its_own_rows(app: Connection) -> None:
    for organization in (ALICE, BOB):
        app.execute("SELECT set_config('nimbus.organization_id', %s, true)", (str(organization),))
        rows = app.execute("SELECT organization_id FROM outbox").fetchall()
        assert rows == [(organization,)]


def test_a_row_of_another_organization_is_refused(app: Connection) -> None:
    app.execute("SELECT set_config('nimbus.organization_id', %s, true)", (str(ALICE),))

    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        schema.seed_canaries(app, [BOB])


def test_no_table_can_be_emptied(app: Connection, owner: Connection) -> None:
    for table in [*schema.tenant_tables(owner), *schema.platform_tables(owner)]:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            app.execute(sql.SQL("TRUNCATE {}").format(sql.Identifier(table)))
        app.rollback()
