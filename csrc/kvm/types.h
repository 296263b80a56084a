/* SPDX-License-Identifier: Apache-2.0 */
/* The kernel's own spelling of integers, so that layouts and pointers to fields agree. */
#ifndef PYVMM_KVM_TYPES_H
#define PYVMM_KVM_TYPES_H

#include "kvm/ioctl.h"

#if 0 /* for csrc/build.py */
/* clang-format off */
/* cffi: begin */
typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;
typedef short __s16;
typedef int __s32;
typedef long long __s64;
/* cffi: end */
/* clang-format on */
#endif

#endif
