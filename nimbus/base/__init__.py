# SPDX-License-Identifier: Apache-2.0
"""The ground: plumbing without domain."""
