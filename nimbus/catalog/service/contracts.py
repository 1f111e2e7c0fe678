# SPDX-License-Identifier: Apache-2.0
"""Contract prices: a version of a plan for one organization, with what was agreed in it."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from nimbus.base.ids import new_id
from nimbus.catalog import queries
from nimbus.catalog.models import Plan, Product
from nimbus.catalog.schemas import ContractShape, PriceShape, VersionShape
from nimbus.catalog.service.plans import checked_terms, write_version
from nimbus.catalog.service.shapes import terms_shape
from nimbus.errors import field_error


async def contract_terms(
    session: AsyncSession, plan_version_id: UUID, currency: str
) -> ContractShape:
    """What a version of a plan says, as a contract would: fee and charges in `currency`, quotas,
    rate limit. 404 for an unknown version, 422 where it has no price in the currency.
    """
    said = terms_shape(await queries.plan_version(session, plan_version_id))
    price = _price(said.prices, currency)
    return ContractShape(
        base_fee=price.base_fee,
        charges=price.charges,
        quotas=said.quotas,
        rate_limit=said.rate_limit,
    )


async def write_contract(
    session: AsyncSession,
    plan_version_id: UUID,
    given: ContractShape,
    *,
    consumer: UUID,
    currency: str,
) -> UUID:
    """Write the version of a plan that holds for `consumer` alone, and give its id.

    It says what `plan_version_id` says, in one currency, with the fee, the meters' charges, the
    quotas and the rate limit of `given` in their place. For its provider, or a system session.
    Raises 404 for an unknown version, 422 on the field: another currency, an unknown meter, a
    price that can't be billed.
    """
    signed = await queries.plan_version(session, plan_version_id)
    plan = queries.one(await session.get(Plan, signed.plan_id, with_for_update=True))
    product = queries.one(await session.get(Product, plan.product_id))
    said = terms_shape(signed)
    price = _price(said.prices, currency)
    if given.base_fee is not None and given.base_fee.currency != currency:
        raise field_error("base_fee.currency", "other_currency", f"It is billed in {currency}.")
    charges = {one.meter: one for one in [*price.charges, *given.charges]}
    quotas = {(one.meter, one.period): one for one in [*said.quotas, *given.quotas]}
    agreed = said.model_copy(
        update={
            "prices": [
                PriceShape(
                    base_fee=given.base_fee or price.base_fee, charges=list(charges.values())
                )
            ],
            "quotas": list(quotas.values()),
            "rate_limit": given.rate_limit or said.rate_limit,
        }
    )
    terms: VersionShape = await checked_terms(session, product, agreed)
    version = await write_version(session, plan, new_id(), terms, consumer=consumer)
    return version.id


def _price(prices: Sequence[PriceShape], currency: str) -> PriceShape:
    for one in prices:
        if one.base_fee.currency == currency:
            return one
    raise field_error("currency", "no_price", "The plan has no price in this currency.")
