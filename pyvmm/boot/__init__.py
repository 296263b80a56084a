# SPDX-License-Identifier: Apache-2.0
"""Turns a kernel file into guest memory and the registers of the first vCPU."""
