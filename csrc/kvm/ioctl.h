/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How every ioctl of these headers is made: it returns what the kernel returned, or -errno.
 *
 * The parts between the cffi marks are read by csrc/build.py and not by the compiler: they say
 * `...` where the layout or the value is to come from <linux/kvm.h>.
 */
#ifndef PYVMM_KVM_IOCTL_H
#define PYVMM_KVM_IOCTL_H

#include <errno.h>
#include <stdint.h>
#include <sys/ioctl.h>

#include <linux/kvm.h>

/* For requests whose argument is a pointer to a structure. */
static inline int kvm_ioctl_pointer(int fd, unsigned long request, void *argument)
{
	int result = ioctl(fd, request, argument);

	return result < 0 ? -errno : result;
}

/* For requests whose argument is a number or unused. */
static inline int kvm_ioctl_number(int fd, unsigned long request, unsigned long argument)
{
	int result = ioctl(fd, request, argument);

	return result < 0 ? -errno : result;
}

/* One function an ioctl: the name, the request and the structure that its argument points to. */
#define KVM_IOCTL_POINTER(name, request, type)                                                     \
	static inline int name(int fd, type *argument)                                             \
	{                                                                                          \
		return kvm_ioctl_pointer(fd, request, argument);                                   \
	}

/* The same for an argument passed by value. */
#define KVM_IOCTL_NUMBER(name, request, type)                                                      \
	static inline int name(int fd, type argument)                                              \
	{                                                                                          \
		return kvm_ioctl_number(fd, request, argument);                                    \
	}

/* The same for no argument at all. */
#define KVM_IOCTL_BARE(name, request)                                                              \
	static inline int name(int fd)                                                             \
	{                                                                                          \
		return kvm_ioctl_number(fd, request, 0);                                           \
	}

#endif
