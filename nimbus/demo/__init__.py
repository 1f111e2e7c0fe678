# SPDX-License-Identifier: Apache-2.0
"""The demo: the story from registration to a paid invoice, and the sets of demo data."""
