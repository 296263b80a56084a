/* SPDX-License-Identifier: Apache-2.0 */
/* One command, from its start until nothing of it is left. */
#ifndef LAB_JOB_H
#define LAB_JOB_H

#include <stdint.h>

/* Runs what a run frame asks for and sends its exit frame. `signals` is a signalfd for SIGCHLD. */
void run_command(char *payload, uint32_t length, int signals);

#endif
