# SPDX-License-Identifier: Apache-2.0
"""Symbiotic virtualization: SymSpy pages, symcalls into the guest kernel, and what they answer."""
