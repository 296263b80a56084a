/* SPDX-License-Identifier: Apache-2.0 */
/* The VMM's ports. */
#ifndef INIT_PORT_H
#define INIT_PORT_H

#define STATUS_PORT 0xf4
#define MARK_PORT   0xf5
#define MARK_BYTE   0x49
#define READY_BYTE  0x52

void out_byte(unsigned short port, unsigned char value);

#endif
