# SPDX-License-Identifier: Apache-2.0
"""The machine: guest memory, vCPUs, hooks, and how a run ends."""
