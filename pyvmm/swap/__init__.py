# SPDX-License-Identifier: Apache-2.0
"""The swap disk: its store, its place in the guest's address space (SwapBypass), and the policy of
its use.
"""
