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

ROUTERS: Sequence[APIRouter] = (
    identity_endpoints.router,
    *catalog_endpoints.routers,
)

JOBS: Sequence[ModuleType] = ()
