# SPDX-License-Identifier: Apache-2.0
"""What an operator needs on a bad day: make a user, make one an admin, revoke a key."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from nimbus import supervisor
from nimbus.base.config import Settings
from nimbus.cli.options import CommandError, DataDir, settings_for
from nimbus.errors import Refusal

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

user = typer.Typer(no_args_is_help=True, help="People.")
key = typer.Typer(no_args_is_help=True, help="API keys.")


@key.callback()
def _group() -> None:
    """Keep a group of one command a group."""


@user.command("create")
def create_user(
    email: str,
    admin: Annotated[bool, typer.Option("--admin", help="A platform admin.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Make a user with a verified address; the password is made and printed once."""
    from nimbus.base.actors import SYSTEM
    from nimbus.identity import make_user

    password = secrets.token_urlsafe(18)
    role = "admin" if admin else None

    async def work(session: "AsyncSession") -> None:
        await make_user(session, SYSTEM, email=email, password=password, platform_role=role)

    _do(settings_for(data_dir), work)
    print(f"{email}\n{password}")


@user.command("grant-admin")
def grant_admin(email: str, data_dir: DataDir = None) -> None:
    """Make a user a platform admin."""
    from nimbus.base.actors import SYSTEM
    from nimbus.identity import grant_platform_role

    async def work(session: "AsyncSession") -> None:
        await grant_platform_role(session, SYSTEM, email, "admin")

    _do(settings_for(data_dir), work)
    print(f"{email} is a platform admin")


@key.command("revoke")
def revoke_key(
    key_id: UUID,
    reason: Annotated[str, typer.Option(help="Why; it goes into the audit trail.")],
    data_dir: DataDir = None,
) -> None:
    """Revoke an API key: refused at every gateway within a second."""
    from nimbus.access import revoke_by_operator

    async def work(session: "AsyncSession") -> None:
        await revoke_by_operator(session, key_id, reason)

    _do(settings_for(data_dir), work)
    print(f"key {key_id} is revoked")


def _do(settings: Settings, work: "Callable[[AsyncSession], Awaitable[None]]") -> None:
    async def run() -> None:
        from nimbus import rooms  # noqa: F401 - reactions are in force here too
        from nimbus.base import db

        await db.open_database(settings)
        try:
            async with db.system_session("operator's command") as session:
                await work(session)
        finally:
            await db.close_database()

    try:
        with supervisor.database(settings):
            asyncio.run(run())
    except Refusal as refusal:
        fields = "; ".join(f"{field.field}: {field.message}" for field in refusal.fields)
        raise CommandError(fields or refusal.detail or refusal.entry.error) from None
