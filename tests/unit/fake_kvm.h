/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FAKE_KVM_H
#define FAKE_KVM_H

/* One return of KVM_RUN: with an errno, or with an exit reason and a word about it. */
struct fake_exit {
	int error;
	unsigned int reason;
	unsigned int detail;
};

void fake_kvm(void *run, const struct fake_exit *list, unsigned int count);

#endif
