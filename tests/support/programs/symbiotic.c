/* SPDX-License-Identifier: Apache-2.0 */
/*
 * symbiotic: a process to be looked at while it makes port exits in user mode.
 *
 * Each byte that it writes to the port names a mapping, whose address it has stored in the port's
 * neighbours before: the low and the high half. The mappings: 't' this program's text, 'w' a page
 * that was written to, 'r' one that is only read, 'u' one that was never touched and may be written
 * to, 'n' none at all, 'e' a page before one that is not there. Its input ends it.
 */
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/io.h>
#include <sys/mman.h>
#include <unistd.h>

#define PORT 0x510
#define PAGE 4096ul

static void *pages(size_t count, int protection)
{
	return mmap(NULL, count * PAGE, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

static void tell(char name, const volatile void *address)
{
	uint64_t value = (uintptr_t)address;

	outl((uint32_t)value, PORT + 4);
	outl((uint32_t)(value >> 32), PORT + 8);
	outb((unsigned char)name, PORT);
}

int main(void)
{
	char *written = pages(1, PROT_READ | PROT_WRITE), *edge = pages(2, PROT_READ | PROT_WRITE);
	char *read_only = pages(1, PROT_READ | PROT_WRITE), *gone = pages(1, PROT_READ);
	char *untouched = pages(1, PROT_READ | PROT_WRITE);

	if (iopl(3))
		return 1;
	strcpy(written, "seen from outside");
	memset(edge, 'e', PAGE);
	munmap(edge + PAGE, PAGE);
	strcpy(read_only, "to be read");
	mprotect(read_only, PAGE, PROT_READ);
	munmap(gone, PAGE);
	printf("pid %d\n", (int)getpid());
	fflush(stdout);
	tell('t', (const volatile void *)(uintptr_t)main);
	tell('w', written);
	tell('r', read_only);
	tell('u', untouched);
	tell('n', gone);
	tell('e', edge);
	puts("told");
	fflush(stdout);
	getchar();
	return 0;
}
