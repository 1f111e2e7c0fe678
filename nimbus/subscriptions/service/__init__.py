# SPDX-License-Identifier: Apache-2.0
"""Use cases of subscriptions: their lives, what changes in their terms, their renewals."""
