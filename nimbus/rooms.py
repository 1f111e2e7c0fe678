# SPDX-License-Identifier: Apache-2.0
"""The rooms, listed: whose endpoints the API serves, whose jobs and reactions are in force.

Every process that changes something imports this list, so that a reaction is never missing in
one of them.
"""

from collections.abc import Sequence
from types import ModuleType

from fastapi import APIRouter

from nimbus.access import endpoints as access_endpoints
from nimbus.billing import endpoints as billing_endpoints
from nimbus.billing import jobs as billing_jobs
from nimbus.catalog import endpoints as catalog_endpoints
from nimbus.identity import endpoints as identity_endpoints
from nimbus.notices import endpoints as notices_endpoints
from nimbus.notices import jobs as notices_jobs
from nimbus.payments import endpoints as payments_endpoints
from nimbus.portal import clock, consumer
from nimbus.subscriptions import endpoints as subscriptions_endpoints
from nimbus.subscriptions import jobs as subscriptions_jobs
from nimbus.usage import endpoints as usage_endpoints
from nimbus.usage import jobs as usage_jobs

ROUTERS: Sequence[APIRouter] = (
    identity_endpoints.router,
    *catalog_endpoints.routers,
    subscriptions_endpoints.router,
    access_endpoints.router,
    usage_endpoints.router,
    billing_endpoints.router,
    payments_endpoints.router,
    notices_endpoints.router,
    consumer.router,
    clock.router,
)

JOBS: Sequence[ModuleType] = (subscriptions_jobs, usage_jobs, billing_jobs, notices_jobs)
