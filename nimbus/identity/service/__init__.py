# SPDX-License-Identifier: Apache-2.0
"""Identity's use cases, by noun: accounts, organizations, members."""
