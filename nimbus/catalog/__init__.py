# SPDX-License-Identifier: Apache-2.0
"""What is sold: products, routes, meters, plans and their prices. The room's door."""

from nimbus.catalog.facts import (
    charge_texts,
    meter_facts,
    own_plan,
    plan_entitlements,
    plan_facts,
    plan_terms,
    plan_with_terms,
    product_facts,
    product_or_operators,
    published_add_on,
    published_plan,
    route_facts,
    route_scopes,
    shown_price,
    weighted_meters,
)
from nimbus.catalog.models import (
    EntitlementFacts,
    MeterFacts,
    PlanFacts,
    ProductFacts,
    QuotaFacts,
    RouteFacts,
)
from nimbus.catalog.schemas import ChargeShape, ContractShape
from nimbus.catalog.service.contracts import contract_terms, write_contract
from nimbus.catalog.service.shapes import charge_of

__all__ = [
    "ChargeShape",
    "ContractShape",
    "EntitlementFacts",
    "MeterFacts",
    "PlanFacts",
    "ProductFacts",
    "QuotaFacts",
    "RouteFacts",
    "charge_of",
    "charge_texts",
    "contract_terms",
    "meter_facts",
    "own_plan",
    "plan_entitlements",
    "plan_facts",
    "plan_terms",
    "plan_with_terms",
    "product_facts",
    "product_or_operators",
    "published_add_on",
    "published_plan",
    "route_facts",
    "route_scopes",
    "shown_price",
    "weighted_meters",
    "write_contract",
]
