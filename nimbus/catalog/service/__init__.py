# SPDX-License-Identifier: Apache-2.0
"""The catalogue's use cases."""
