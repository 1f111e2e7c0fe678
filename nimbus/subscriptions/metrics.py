# SPDX-License-Identifier: Apache-2.0
"""What subscriptions come to, for Prometheus: how many, what they bring, how many end."""

from datetime import timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from nimbus.base import clock, metrics

_SERVED = "s.status IN ('Trial', 'Active', 'PastDue', 'Cancelled')"
_PAYING = "s.status IN ('Active', 'PastDue')"
_NAMES = """
    JOIN products p ON p.id = s.product_id
    JOIN plans l ON l.id = s.plan_id
"""
_CHURN_DAYS = 30


@metrics.gauge(
    "nimbus_billing_subscriptions_active",
    "Subscriptions that are served now, by product, plan and status.",
    "product",
    "plan",
    "status",
)
async def _active(session: AsyncSession) -> metrics.Samples:
    rows = await session.execute(
        text(
            f"SELECT p.slug, l.slug, s.status, count(*) FROM subscriptions s {_NAMES}"  # noqa: S608
            f" WHERE {_SERVED} AND (s.ends_at IS NULL OR s.ends_at > :now) GROUP BY 1, 2, 3"
        ),
        {"now": clock.now()},
    )
    return [((product, plan, status), float(count)) for product, plan, status, count in rows]


@metrics.gauge(
    "nimbus_billing_mrr",
    "Base fees of paying subscriptions by the month, in whole units of the currency.",
    "currency",
    "product",
    "plan",
)
async def _monthly_fees(session: AsyncSession) -> metrics.Samples:
    # For people to look at: a month is a twelfth of a year, and of a week 52 are one.
    rows = await session.execute(
        text(
            f"""
            SELECT s.currency, p.slug, l.slug, sum(
                f.base_fee_minor / 100.0 / v.interval_count / CASE v.interval
                    WHEN 'day' THEN 12 / 365.0 WHEN 'week' THEN 12 / 52.0 WHEN 'month' THEN 1
                    WHEN 'quarter' THEN 3 ELSE 12 END)
            FROM subscriptions s {_NAMES}
            JOIN plan_versions v ON v.id = s.plan_version_id
            JOIN plan_prices f ON f.plan_version_id = v.id AND f.currency = s.currency
            WHERE {_PAYING} GROUP BY 1, 2, 3
            """  # noqa: S608 - all of it is written here
        )
    )
    return [((currency, product, plan), float(fee)) for currency, product, plan, fee in rows]


@metrics.gauge(
    "nimbus_billing_churn_rate",
    "Of the subscriptions that were paid thirty days ago, the share that has ended since.",
)
async def _churn(session: AsyncSession) -> metrics.Samples:
    rate = await session.scalar(
        text(
            """
            SELECT count(*) FILTER (WHERE s.ends_at <= :now)::numeric / nullif(count(*), 0)
            FROM subscriptions s
            WHERE s.payment IS NOT NULL
              AND coalesce(s.trial_ends_at, s.started_at) <= CAST(:now AS timestamptz) - :since
              AND (s.ends_at IS NULL OR s.ends_at > CAST(:now AS timestamptz) - :since)
            """
        ),
        {"now": clock.now(), "since": timedelta(days=_CHURN_DAYS)},
    )
    return [((), float(rate or 0))]
