# SPDX-License-Identifier: Apache-2.0
"""Identity: people, organizations, memberships, invitations, sessions, one-time links, terms."""

from alembic import op

from nimbus.migrations.tenancy import (
    CURRENT_ORGANIZATION,
    CURRENT_USER,
    definer_function,
    grant,
    owner_policy,
    protect,
)

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

ROLES = "('owner', 'admin', 'developer', 'billing', 'accountant', 'manager', 'viewer')"
FUNCTIONS = (
    "identity_user_by_email(text)",
    "identity_session(uuid)",
    "identity_link(uuid)",
    "identity_invitation(uuid)",
    "identity_last_owner(uuid, uuid)",
)


def upgrade() -> None:
    """Make identity's tables, policies and the look-ups that come before a tenant is known."""
    _users()
    _organizations()
    _memberships()
    _sessions_and_links()
    _terms()
    _functions()


def downgrade() -> None:
    """Drop them in reverse."""
    for signature in FUNCTIONS:
        op.execute(f"DROP FUNCTION {signature}")
    for table in ("terms_acceptances", "terms_versions", "one_time_links", "sessions"):
        op.execute(f"DROP TABLE {table}")
    op.execute("DROP POLICY tenant_select ON users")
    op.execute("DROP POLICY tenant_select ON organizations")
    for table in ("invitations", "memberships", "organizations", "users"):
        op.execute(f"DROP TABLE {table}")


def _force(table: str) -> None:
    op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
    op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
    owner_policy(table)


def _policy(table: str, verb: str, condition: str) -> None:
    using = "" if verb == "INSERT" else f" USING ({condition})"
    check = f" WITH CHECK ({condition})" if verb in {"INSERT", "UPDATE"} else ""
    op.execute(
        f"CREATE POLICY tenant_{verb.lower()} ON {table} FOR {verb} TO nimbus_app{using}{check}"
    )


def _users() -> None:
    op.execute(
        """CREATE TABLE users (
            id uuid PRIMARY KEY,
            email text NOT NULL,
            password_hash text NOT NULL,
            first_name text NOT NULL,
            last_name text NOT NULL,
            company text NOT NULL,
            locale text NOT NULL CHECK (locale IN ('en', 'nl')),
            status text NOT NULL CHECK (status IN ('active', 'suspended', 'deleted')),
            platform_role text CHECK (platform_role IN ('support', 'admin')),
            email_verified_at timestamptz,
            version integer NOT NULL,
            created_at timestamptz NOT NULL,
            updated_at timestamptz NOT NULL)"""
    )
    op.execute("CREATE UNIQUE INDEX uq_users_email ON users (lower(email))")
    _force("users")
    grant("users", "SELECT, INSERT")
    # What makes somebody one of the operator's people is not the application's to write.
    op.execute(
        "GRANT UPDATE (password_hash, first_name, last_name, company, locale, status,"
        " email_verified_at, version, updated_at) ON users TO nimbus_app"
    )
    _policy("users", "INSERT", f"id = {CURRENT_USER} AND platform_role IS NULL")
    _policy("users", "UPDATE", f"id = {CURRENT_USER}")


def _organizations() -> None:
    op.execute(
        """CREATE TABLE organizations (
            id uuid PRIMARY KEY,
            organization_id uuid NOT NULL GENERATED ALWAYS AS (id) STORED,
            name text NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
            slug text NOT NULL UNIQUE,
            legal_name text,
            company_number text,
            vat_number text,
            billing_email text NOT NULL,
            address jsonb NOT NULL,
            country char(2) NOT NULL,
            time_zone text NOT NULL,
            locale text NOT NULL CHECK (locale IN ('en', 'nl')),
            currency char(3) NOT NULL,
            status text NOT NULL CHECK (status IN ('Pending', 'Active', 'Suspended', 'Cancelled')),
            version integer NOT NULL,
            created_at timestamptz NOT NULL,
            updated_at timestamptz NOT NULL,
            UNIQUE (organization_id, id))"""
    )


def _memberships() -> None:
    op.execute(
        f"""CREATE TABLE memberships (
            id uuid PRIMARY KEY,
            organization_id uuid NOT NULL REFERENCES organizations (id),
            user_id uuid NOT NULL REFERENCES users (id),
            role text NOT NULL CHECK (role IN {ROLES}),
            created_at timestamptz NOT NULL,
            updated_at timestamptz NOT NULL,
            UNIQUE (organization_id, id),
            UNIQUE (organization_id, user_id))"""
    )
    op.execute("CREATE INDEX ix_memberships_user ON memberships (user_id)")
    protect("memberships", read_also=f"user_id = {CURRENT_USER}")
    _force("organizations")
    grant("organizations", "SELECT, INSERT, UPDATE")
    _policy(
        "organizations",
        "SELECT",
        f"id = {CURRENT_ORGANIZATION} OR id IN"
        f" (SELECT m.organization_id FROM memberships m WHERE m.user_id = {CURRENT_USER})",
    )
    _policy("organizations", "INSERT", f"id = {CURRENT_ORGANIZATION}")
    _policy("organizations", "UPDATE", f"id = {CURRENT_ORGANIZATION}")
    _policy(
        "users",
        "SELECT",
        f"id = {CURRENT_USER} OR id IN (SELECT m.user_id FROM memberships m"
        f" WHERE m.organization_id = {CURRENT_ORGANIZATION})",
    )
    op.execute(
        f"""CREATE TABLE invitations (
            id uuid PRIMARY KEY,
            organization_id uuid NOT NULL REFERENCES organizations (id),
            email text NOT NULL,
            role text NOT NULL CHECK (role IN {ROLES}),
            invited_by uuid NOT NULL REFERENCES users (id),
            expires_at timestamptz NOT NULL,
            accepted_at timestamptz,
            created_at timestamptz NOT NULL,
            UNIQUE (organization_id, id))"""
    )
    protect("invitations")


def _sessions_and_links() -> None:
    op.execute(
        """CREATE TABLE sessions (
            id uuid PRIMARY KEY,
            user_id uuid NOT NULL REFERENCES users (id),
            organization_id uuid NOT NULL,
            token_number integer NOT NULL,
            rotated_at timestamptz NOT NULL,
            expires_at timestamptz NOT NULL,
            revoked_at timestamptz,
            ip text,
            created_at timestamptz NOT NULL,
            UNIQUE (organization_id, id))"""
    )
    op.execute("CREATE INDEX ix_sessions_user ON sessions (user_id)")
    op.execute(
        """CREATE TABLE one_time_links (
            id uuid PRIMARY KEY,
            user_id uuid NOT NULL REFERENCES users (id),
            purpose text NOT NULL CHECK (purpose IN ('verify', 'reset')),
            expires_at timestamptz NOT NULL,
            used_at timestamptz,
            created_at timestamptz NOT NULL)"""
    )
    for table in ("sessions", "one_time_links"):
        _force(table)
        grant(table, "SELECT, INSERT, UPDATE")
        for verb in ("SELECT", "INSERT", "UPDATE", "DELETE"):
            _policy(table, verb, f"user_id = {CURRENT_USER}")


def _terms() -> None:
    op.execute(
        """CREATE TABLE terms_versions (
            version text PRIMARY KEY CHECK (length(version) BETWEEN 1 AND 40),
            body text NOT NULL,
            published_at timestamptz NOT NULL,
            created_at timestamptz NOT NULL)"""
    )
    op.execute("GRANT SELECT ON terms_versions TO nimbus_app")
    op.execute("GRANT SELECT, INSERT ON terms_versions TO nimbus_system")
    op.execute(
        """CREATE TABLE terms_acceptances (
            id uuid PRIMARY KEY,
            organization_id uuid NOT NULL REFERENCES organizations (id),
            user_id uuid NOT NULL REFERENCES users (id),
            version text NOT NULL REFERENCES terms_versions (version),
            ip text,
            accepted_at timestamptz NOT NULL,
            created_at timestamptz NOT NULL,
            UNIQUE (organization_id, id),
            UNIQUE (organization_id, version))"""
    )
    protect("terms_acceptances", verbs="SELECT, INSERT")


def _functions() -> None:
    bodies = {
        "identity_user_by_email(address text)": (
            "users",
            "SELECT * FROM users WHERE lower(email) = lower(address)",
        ),
        "identity_session(session uuid)": ("sessions", "SELECT * FROM sessions WHERE id = session"),
        "identity_link(link uuid)": (
            "one_time_links",
            "SELECT * FROM one_time_links WHERE id = link",
        ),
        "identity_invitation(invitation uuid)": (
            "invitations",
            "SELECT * FROM invitations WHERE id = invitation",
        ),
    }
    for signature, (table, query) in bodies.items():
        op.execute(
            f"""CREATE FUNCTION {signature} RETURNS SETOF {table} LANGUAGE sql STABLE
            SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$ {query} $$"""
        )
    # Locks the owners, so that two removals at once can't both find another owner left.
    op.execute(
        f"""CREATE FUNCTION identity_last_owner(organization uuid, member uuid)
        RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER
        SET search_path = pg_catalog, public, pg_temp AS $$
        BEGIN
            IF session_user = 'nimbus_app' AND organization <> {CURRENT_ORGANIZATION} THEN
                RAISE EXCEPTION 'the owners of another organization' USING ERRCODE = '42501';
            END IF;
            PERFORM 1 FROM memberships WHERE organization_id = organization AND role = 'owner'
                ORDER BY id FOR UPDATE;
            RETURN NOT EXISTS (SELECT 1 FROM memberships WHERE organization_id = organization
                               AND role = 'owner' AND user_id <> member);
        END $$"""
    )
    for signature in FUNCTIONS:
        definer_function(signature, "nimbus_app, nimbus_system")
