# SPDX-License-Identifier: Apache-2.0
"""Devices: thin Python over the data paths in csrc."""
