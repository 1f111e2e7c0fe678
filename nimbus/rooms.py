# SPDX-License-Identifier: Apache-2.0
"""The rooms' jobs and reactions, listed: importing this puts all of them in force.

Every process that changes something imports it, so that a reaction is never missing in one.
"""

from collections.abc import Sequence
from types import ModuleType

from nimbus.access import jobs as access
from nimbus.billing import jobs as billing
from nimbus.notices import jobs as notices
from nimbus.subscriptions import jobs as subscriptions
from nimbus.usage import jobs as usage

JOBS: Sequence[ModuleType] = (subscriptions, access, usage, billing, notices)
