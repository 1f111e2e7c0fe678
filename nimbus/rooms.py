# SPDX-License-Identifier: Apache-2.0
"""The rooms, listed: whose endpoints the API serves, whose jobs and reactions are in force.

Every process that changes something imports this list, so that a reaction is never missing in
one of them.
"""

from collections.abc import Sequence
from types import ModuleType

from fastapi import APIRouter

from nimbus.catalog import endpoints as catalog_endpoints
from nimbus.identity import endpoints as identity_endpoints
from nimbus.notices import endpoints as notices_endpoints
from nimbus.notices import jobs as notices_jobs
from nimbus.subscriptions import endpoints as subscriptions_endpoints
from nimbus.subscriptions import jobs as subscriptions_jobs

ROUTERS: Sequence[APIRouter] = (
    identity_endpoints.router,
    *catalog_endpoints.routers,
    subscriptions_endpoints.router,
    notices_endpoints.router,
)

JOBS: Sequence[ModuleType] = (subscriptions_jobs, notices_jobs)
