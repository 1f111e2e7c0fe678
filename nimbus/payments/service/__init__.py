# SPDX-License-Identifier: Apache-2.0
"""Use cases of payments, by noun: settlements, balances, checkout."""
