# SPDX-License-Identifier: Apache-2.0
"""The meter: what was called, summed up and held against quotas. The room's door."""

from nimbus.usage.models import Mark, QuotaState
from nimbus.usage.queries import absent_producers, drained_through, producer_mark
from nimbus.usage.service.batches import JournalHoleError, end_producer, store_batch
from nimbus.usage.service.counted import Stored, count_stored, stored_of
from nimbus.usage.service.folding import DELTAS, fold
from nimbus.usage.service.journals import QUARANTINE
from nimbus.usage.service.lots import Ready, make_ready
from nimbus.usage.service.periods import Asked, quantities_of_periods
from nimbus.usage.service.proof import also_prove, reconcile
from nimbus.usage.service.quotas import open_standings, quota_states
from nimbus.usage.service.readings import period_quantities
from nimbus.usage.service.retention import cut_addresses, retire
from nimbus.usage.service.spending import credit_balance, settle_balance

__all__ = [
    "DELTAS",
    "QUARANTINE",
    "Asked",
    "JournalHoleError",
    "Mark",
    "QuotaState",
    "Ready",
    "Stored",
    "absent_producers",
    "also_prove",
    "count_stored",
    "credit_balance",
    "cut_addresses",
    "drained_through",
    "end_producer",
    "fold",
    "make_ready",
    "open_standings",
    "period_quantities",
    "producer_mark",
    "quantities_of_periods",
    "quota_states",
    "reconcile",
    "retire",
    "settle_balance",
    "store_batch",
    "stored_of",
]
