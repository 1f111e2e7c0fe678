# SPDX-License-Identifier: Apache-2.0
"""The rooms' jobs, reactions and gauges, listed: importing this puts all of them in force.

Every process that changes something imports it, so that a reaction is never missing in one.
"""

from collections.abc import Sequence
from types import ModuleType

from nimbus.access import jobs as access
from nimbus.access import metrics as access_metrics
from nimbus.billing import jobs as billing
from nimbus.billing import metrics as billing_metrics
from nimbus.notices import jobs as notices
from nimbus.notices import metrics as notices_metrics
from nimbus.subscriptions import jobs as subscriptions
from nimbus.subscriptions import metrics as subscriptions_metrics
from nimbus.usage import jobs as usage
from nimbus.usage import metrics as usage_metrics

JOBS: Sequence[ModuleType] = (subscriptions, access, usage, billing, notices)
GAUGES: Sequence[ModuleType] = (
    subscriptions_metrics,
    access_metrics,
    usage_metrics,
    billing_metrics,
    notices_metrics,
)
