# SPDX-License-Identifier: Apache-2.0
"""The portal: the pages people see, and the read-only answers composed for them."""
