/* SPDX-License-Identifier: Apache-2.0 */
#include "host/framing.h"

size_t framing_escape(uint8_t *buffer, size_t length)
{
	size_t to = length;

	for (size_t i = 0; i < length; i++)
		to += buffer[i] == FRAMING_DLE;
	/* From the end, so that nothing is overwritten before it was moved. */
	for (size_t from = length, at = to; from < at;) {
		uint8_t byte = buffer[--from];

		buffer[--at] = byte;
		if (byte == FRAMING_DLE)
			buffer[--at] = byte;
	}
	return to;
}
