# SPDX-License-Identifier: Apache-2.0
"""The control socket of a running VM: where it lies, who may use it, what it answers.
docs/control.md says more.
"""
