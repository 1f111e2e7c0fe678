# SPDX-License-Identifier: Apache-2.0
"""The demo: the story from registration to a paid invoice, and the sets of demo data."""

SETS = ("DEMO_EMPTY", "DEMO_TAPAS", "DEMO_CAFESSERIE_FRANCHISE")
EVERY_SET = "all"
