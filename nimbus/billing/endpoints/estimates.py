# SPDX-License-Identifier: Apache-2.0
"""HTTP of the estimate: what an invoice would come to, for anyone."""

from nimbus.base import clock
from nimbus.base.problems import documented
from nimbus.base.throttle import throttle
from nimbus.base.web import CurrentActor, Router, Session, mutates
from nimbus.billing.estimate_schemas import EstimateBody, EstimateView
from nimbus.billing.service import estimates

router = Router(tags=["billing"])
ESTIMATES_A_MINUTE = 600


@router.post(
    "/api/billing/estimate",
    operation_id="estimate",
    responses=documented(415, 422, 429),
    **mutates(permission="public", events=[], idempotency="natural"),
)
async def estimate(body: EstimateBody, actor: CurrentActor, session: Session) -> EstimateView:
    """What an invoice would come to, computed by the functions of the bill run; saves nothing."""
    await throttle(f"estimate-ip/{actor.ip}", ESTIMATES_A_MINUTE, 60)
    return await estimates.estimate(session, body, clock.now())
