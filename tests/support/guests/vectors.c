/* SPDX-License-Identifier: Apache-2.0 */
/* Vector registers of the integrity guest: values for them, and whether they are still there. */
#include "checks.h"

enum {
	CR4_OSFXSR = 1 << 9,
	CR4_OSXMMEXCPT = 1 << 10,
	CR4_OSXSAVE = 1 << 18,
	CPUID_XSAVE = 1 << 26,
	XCR0_WANTED = 0xe7, /* x87, SSE, AVX, AVX-512 */
};

u64 upper_mask;

void random_vectors(u8 *image, unsigned size)
{
	static u64 state;
	u64 *words = (u64 *)image;

	/* A plain congruence: this is the most of what an emulated CPL 0 has to do. */
	state = mix(state);
	for (unsigned i = 0; i < size / 8; i++)
		words[i] = state = state * 0xd1342543de82ef95 + 1;
	/* Exceptions stay masked, and none is pending; the rest of the control words is free. */
	*(u16 *)image = 0x007f | (words[0] & 0x0f00);
	*(u16 *)(image + 2) = words[0] >> 16 & 0x7f7f & ~0x4080;
	*(u16 *)(image + 4) = words[0] >> 32 & 0xff;
	*(u16 *)(image + 6) = 0;
	words[1] = words[2] = 0; /* addresses of an exception that there was not */
	*(u32 *)(image + 24) = 0x1f80 | (words[3] & 0xe03f);
	if (size > 512) {
		words[64] = vectors_mask;
		for (unsigned i = 65; i < 72; i++)
			words[i] = 0;
	}
}

static void compare_bytes(u64 what, unsigned from, unsigned to)
{
	for (unsigned i = from; i < to; i += 2)
		if (*(u16 *)(vectors_set + i) != *(u16 *)(vectors_got + i))
			fail(what, i, *(u16 *)(vectors_set + i), *(u16 *)(vectors_got + i));
}

static void compare_words(u64 what, unsigned from, unsigned to)
{
	for (unsigned i = from; i < to; i += 8)
		if (*(u64 *)(vectors_set + i) != *(u64 *)(vectors_got + i))
			fail(what, i, *(u64 *)(vectors_set + i), *(u64 *)(vectors_got + i));
}

void compare_legacy(void)
{
	compare_bytes(FAILED_VECTORS, 0, 6);
	compare_bytes(FAILED_VECTORS, 24, 28);
	for (unsigned i = 32; i < 160; i += 16) {
		compare_words(FAILED_VECTORS, i, i + 8);
		compare_bytes(FAILED_VECTORS, i + 8, i + 10);
	}
	compare_words(FAILED_VECTORS, 160, 416);
}

/* Where components 2 and up lie (CPUID leaf 0xd), asked once: CPUID always exits. */
static u32 component_offset[8], component_size[8];

void compare_upper(u64 what)
{
	for (unsigned i = 2; i < 8; i++)
		compare_words(what, component_offset[i], component_offset[i] + component_size[i]);
}

void enable_vectors(void)
{
	u32 id[4];

	write_cr4(read_cr4() | CR4_OSFXSR | CR4_OSXMMEXCPT);
	cpuid(1, 0, id);
	if (!(id[2] & CPUID_XSAVE))
		return;
	write_cr4(read_cr4() | CR4_OSXSAVE);
	cpuid(0xd, 0, id);
	upper_mask = id[0] & XCR0_WANTED;
	__asm__ volatile("xsetbv" : : "c"(0), "a"((u32)upper_mask), "d"(0));
	for (unsigned i = 2; i < 8; i++) {
		if (!(upper_mask >> i & 1))
			continue;
		cpuid(0xd, i, id);
		component_size[i] = id[0];
		component_offset[i] = id[1];
		if (id[0] + id[1] > sizeof(vectors_set))
			upper_mask &= ~(1ULL << i);
	}
}
