/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The hand-overs between the threads of a machine's devices, for the sanitizers. Each life of a
 * machine has a disk, a console, an entropy source and a serial port, with the threads that they
 * make. Beside them run vCPUs whose drivers offer requests, reset the device and stop, a vCPU that
 * looks at registers, and a thread of the program that reads counters, types, resizes and drains.
 * At the end the vCPUs are told to stop, some of them in the middle of a wait for a device.
 *
 *     device_threads SEED LIVES
 *
 * prints how many requests were completed, how often drivers began anew, and the bytes that the
 * serial port sent.
 */
#include <errno.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "host/guard.h"
#include "machine/bus.h"
#include "machine/vcpu.h"
#include "serial/serial.h"
#include "virtio/blk.h"
#include "virtio/console.h"
#include "virtio/mmio.h"
#include "virtio/rng.h"

enum {
	RAM = 1 << 18,
	AREA = 1 << 16, /* of one device */
	SIZE = 16,
	BUFFERS = 0x4000,
	DISK = 1 << 16,
	DEVICES = 3,
	SERIAL = 0x3f8,
	LIFE_US = 20000,
	SPINS = 2000, /* looks for an answer before a driver gives it up */
	RUN = 12288,
};

struct machine {
	uint8_t *ram, *disk;
	struct guest_memory *memory;
	struct bus *mmio, *pio;
	struct iothread *threads[DEVICES];
	struct virtio_device *devices[DEVICES];
	int kicks[DEVICES][2], irqs[DEVICES];
	struct serial *serial;
	int console[2], line[2];
	bool stop; /* atomic */
};

struct vcpu_thread {
	pthread_t thread;
	struct machine *machine;
	struct vcpu *vcpu;
	uint8_t *run;
	uint64_t random;
	uint32_t device;
	uint16_t offered[2];
	uint64_t requests, resets;
};

static uint64_t next(uint64_t *random)
{
	*random ^= *random << 13;
	*random ^= *random >> 7;
	*random ^= *random << 17;
	return *random;
}

static void *must(void *pointer, const char *what)
{
	if (pointer)
		return pointer;
	perror(what);
	exit(2);
}

static bool stopping(const struct vcpu_thread *cpu)
{
	return __atomic_load_n(&cpu->machine->stop, __ATOMIC_RELAXED);
}

/* An access as the vCPU loop makes it. */
static uint64_t access_bus(struct vcpu_thread *cpu, struct bus *bus, uint64_t address,
                           uint32_t length, uint64_t value, bool is_write)
{
	const struct bus_range *range = bus_find(bus, address);
	struct bus_access access = {
	        .address = address,
	        .value = value,
	        .length = length,
	        .is_write = is_write,
	        .vcpu = cpu->vcpu,
	};

	if (!range)
		return 0;
	access.offset = address - range->base;
	range->handler(range->opaque, &access);
	return access.value;
}

static void write_register(struct vcpu_thread *cpu, uint32_t offset, uint32_t value)
{
	access_bus(cpu, cpu->machine->mmio, cpu->device * 0x1000 + offset, 4, value, true);
}

static uint32_t read_register(struct vcpu_thread *cpu, uint32_t offset)
{
	return (uint32_t)access_bus(cpu, cpu->machine->mmio, cpu->device * 0x1000 + offset, 4, 0,
	                            false);
}

/* The driver of a virtio device. */

static uint32_t rings_of(const struct vcpu_thread *cpu, uint32_t queue)
{
	return cpu->device * AREA + queue * 0x1000;
}

static void start_driver(struct vcpu_thread *cpu)
{
	uint32_t queues = virtio_queue_count(cpu->machine->devices[cpu->device]);

	write_register(cpu, 0x70, 0);
	write_register(cpu, 0x70, 3);
	write_register(cpu, 0x24, 1);
	write_register(cpu, 0x20, 1);
	write_register(cpu, 0x70, 8);
	for (uint32_t queue = 0; queue < queues; queue++) {
		uint32_t at = rings_of(cpu, queue);

		/* A reset that was not waited for may still have to come: not while these change.
		 */
		if (read_register(cpu, 0x70) == 0xb)
			memset(cpu->machine->ram + at, 0, 0x1000);
		write_register(cpu, 0x30, queue);
		write_register(cpu, 0x38, SIZE);
		write_register(cpu, 0x80, at);
		write_register(cpu, 0x90, at + 16 * SIZE);
		write_register(cpu, 0xa0, at + 0x800);
		write_register(cpu, 0x44, 1);
		cpu->offered[queue] = 0;
	}
	write_register(cpu, 0x70, 4);
	cpu->resets++;
}

static void put_descriptor(uint8_t *where, uint64_t addr, uint32_t len, uint16_t flags,
                           uint16_t link)
{
	memcpy(where, &addr, 8);
	memcpy(where + 8, &len, 4);
	memcpy(where + 12, &flags, 2);
	memcpy(where + 14, &link, 2);
}

/* A read or write of the disk; for the others a buffer of the direction that the queue has. */
static void put_request(struct vcpu_thread *cpu, uint32_t queue)
{
	uint8_t *rings = cpu->machine->ram + rings_of(cpu, queue);
	uint64_t buffer = rings_of(cpu, 0) + BUFFERS + queue * 0x4000;
	bool disk = cpu->device == 0, out = next(&cpu->random) & 1;
	uint64_t header[2] = {out, next(&cpu->random) % 64};

	if (!disk) {
		put_descriptor(rings, buffer, 512, cpu->device == 1 && queue == 1 ? 0 : 2, 0);
		return;
	}
	memcpy(cpu->machine->ram + buffer, header, sizeof(header));
	put_descriptor(rings, buffer, 16, 1, 1);
	put_descriptor(rings + 16, buffer + 512, 4096, out ? 1 : 3, 2);
	put_descriptor(rings + 32, buffer + 0x2000, 1, 2, 0);
}

static void offer(struct vcpu_thread *cpu, uint32_t queue)
{
	uint8_t *rings = cpu->machine->ram + rings_of(cpu, queue);
	uint16_t *idx = (uint16_t *)(rings + 16 * SIZE + 2), *used = (uint16_t *)(rings + 0x802);

	if (read_register(cpu, 0x70) != 0xf) {
		start_driver(cpu);
		return;
	}
	put_request(cpu, queue);
	__atomic_store_n(idx, ++cpu->offered[queue], __ATOMIC_RELEASE);
	eventfd_write(cpu->machine->kicks[cpu->device][queue], 1);
	for (int i = 0; i < SPINS && !stopping(cpu); i++) {
		if (__atomic_load_n(used, __ATOMIC_ACQUIRE) == cpu->offered[queue]) {
			cpu->requests++;
			return;
		}
		if (i % 100 == 99)
			usleep(10);
	}
	/* Nothing typed, or the device is slow: the buffers are its own until a reset. */
	start_driver(cpu);
}

static void *drive(void *opaque)
{
	struct vcpu_thread *cpu = opaque;
	uint32_t queues = virtio_queue_count(cpu->machine->devices[cpu->device]);

	start_driver(cpu);
	while (!stopping(cpu)) {
		if (next(&cpu->random) % 16 == 0)
			start_driver(cpu);
		offer(cpu, next(&cpu->random) % queues);
		write_register(cpu, 0x64, 3);
	}
	return NULL;
}

/* Another vCPU: looks at all devices, and has the serial port. */
static void *look(void *opaque)
{
	struct vcpu_thread *cpu = opaque;

	while (!stopping(cpu)) {
		uint32_t port = SERIAL + next(&cpu->random) % 8;

		cpu->device = next(&cpu->random) % DEVICES;
		read_register(cpu, next(&cpu->random) % 0x110 & ~3u);
		access_bus(cpu, cpu->machine->pio, port, 1, 0, false);
		access_bus(cpu, cpu->machine->pio, port, 1, next(&cpu->random) & 0xff,
		           port != SERIAL + 4);
	}
	return NULL;
}

/* The program's own thread. */
static void *meddle(void *opaque)
{
	struct vcpu_thread *own = opaque;
	struct machine *machine = own->machine;
	struct serial_stats serial_stats;
	struct virtio_stats stats;
	uint8_t bytes[4096];

	while (!stopping(own)) {
		uint32_t which = next(&own->random) % DEVICES;

		virtio_stats(machine->devices[which], &stats);
		virtio_status(machine->devices[which]);
		if (next(&own->random) % 4 == 0)
			virtio_settle(machine->devices[which]);
		virtio_console_set_size(machine->devices[1], 80, next(&own->random) & 0xff);
		serial_get_stats(machine->serial, &serial_stats);
		serial_tail(machine->serial, bytes, sizeof(bytes));
		serial_feed(machine->serial, bytes, 3);
		send(machine->console[1], "typed\x01h", 7, MSG_DONTWAIT);
		while (recv(machine->console[1], bytes, sizeof(bytes), MSG_DONTWAIT) > 0)
			;
		while (recv(machine->line[1], bytes, sizeof(bytes), MSG_DONTWAIT) > 0)
			;
		/* Tables that change while others look things up. */
		bus_add(machine->mmio, 0x100000, 0x1000, virtio_mmio_access, machine->devices[0]);
		bus_remove(machine->mmio, 0x100000);
	}
	return NULL;
}

/* The life of a machine. */

static void make_devices(struct machine *machine)
{
	struct virtio_console_plug plug = {
	        .input_fd = machine->console[0],
	        .output_fd = machine->console[0],
	        .escape = 1,
	        .quit_fd = -1,
	        .gate_fd = -1,
	        .failed_fd = -1,
	};
	struct virtio_wiring wiring[DEVICES];

	for (int i = 0; i < DEVICES; i++) {
		machine->threads[i] = must(iothread_create("device"), "iothread_create");
		machine->irqs[i] = eventfd(0, EFD_NONBLOCK);
		machine->kicks[i][0] = eventfd(0, EFD_NONBLOCK);
		machine->kicks[i][1] = eventfd(0, EFD_NONBLOCK);
		wiring[i] = (struct virtio_wiring){machine->memory, machine->threads[i],
		                                   virtio_mmio_transport(), machine->irqs[i]};
	}
	machine->devices[0] = must(virtio_blk_create_memory(&wiring[0], machine->disk,
	                                                    DISK / VIRTIO_BLK_SECTOR, 0, "disk"),
	                           "disk");
	machine->devices[1] = must(virtio_console_create(&wiring[1], &plug), "console");
	machine->devices[2] = must(virtio_rng_create(&wiring[2]), "rng");
	for (uint32_t i = 0; i < DEVICES; i++) {
		for (uint32_t k = 0; k < virtio_queue_count(machine->devices[i]); k++)
			virtio_set_kick(machine->devices[i], k, machine->kicks[i][k]);
		bus_add(machine->mmio, i * 0x1000, VIRTIO_MMIO_SIZE, virtio_mmio_access,
		        machine->devices[i]);
	}
}

static void make_serial(struct machine *machine)
{
	struct serial_config config = {
	        .irq_fd = machine->irqs[0],
	        .output_fd = machine->line[0],
	        .input_fd = machine->line[0],
	        .quit_fd = -1,
	        .escape = 1,
	        .failed_fd = -1,
	        .log_fd = -1,
	};

	machine->serial = must(serial_create(&config), "serial_create");
	bus_add(machine->pio, SERIAL, SERIAL_PORTS, serial_access, machine->serial);
}

static void build(struct machine *machine)
{
	*machine = (struct machine){0};
	machine->ram = must(aligned_alloc(4096, RAM), "ram");
	machine->disk = must(aligned_alloc(4096, DISK), "disk");
	memset(machine->ram, 0, RAM);
	memset(machine->disk, 0, DISK);
	machine->memory = must(guest_memory_create(), "guest_memory_create");
	guest_memory_add(machine->memory, 0, RAM, machine->ram, 0);
	machine->mmio = must(bus_create(), "bus");
	machine->pio = must(bus_create(), "bus");
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, machine->console) ||
	    socketpair(AF_UNIX, SOCK_STREAM, 0, machine->line))
		must(NULL, "socketpair");
	make_devices(machine);
	make_serial(machine);
}

static void tear_down(struct machine *machine)
{
	virtio_console_drain(machine->devices[1], 10);
	serial_drain(machine->serial, 10);
	for (int i = 0; i < DEVICES; i++) {
		while (iothread_stop(machine->threads[i], 100))
			;
		virtio_destroy(machine->devices[i]);
		iothread_destroy(machine->threads[i]);
		close(machine->irqs[i]);
		close(machine->kicks[i][0]);
		close(machine->kicks[i][1]);
	}
	serial_stop(machine->serial, 100);
	serial_destroy(machine->serial);
	for (int i = 0; i < 2; i++) {
		close(machine->console[i]);
		close(machine->line[i]);
	}
	bus_destroy(machine->mmio);
	bus_destroy(machine->pio);
	guest_memory_destroy(machine->memory);
	free(machine->ram);
	free(machine->disk);
}

static void begin(struct vcpu_thread *cpu, struct machine *machine, uint64_t random,
                  void *(*main)(void *))
{
	cpu->machine = machine;
	cpu->random = random | 1;
	cpu->run = must(calloc(1, RUN), "run");
	cpu->vcpu = must(vcpu_create(-1, 0, (uintptr_t)cpu->run, RUN, machine->pio, machine->mmio,
	                             machine->mmio),
	                 "vcpu_create");
	if (pthread_create(&cpu->thread, NULL, main, cpu))
		must(NULL, "pthread_create");
}

static void end(struct vcpu_thread *cpu)
{
	pthread_join(cpu->thread, NULL);
	vcpu_destroy(cpu->vcpu);
	free(cpu->run);
}

static void live(uint64_t *random, uint64_t *totals)
{
	struct vcpu_thread cpus[DEVICES + 2] = {0};
	struct serial_stats stats;
	struct machine machine;

	build(&machine);
	for (uint32_t i = 0; i < DEVICES; i++) {
		cpus[i].device = i;
		begin(&cpus[i], &machine, next(random), drive);
	}
	begin(&cpus[DEVICES], &machine, next(random), look);
	begin(&cpus[DEVICES + 1], &machine, next(random), meddle);
	usleep(LIFE_US);
	for (uint32_t i = 0; i < DEVICES; i++)
		vcpu_request(cpus[i].vcpu, VCPU_REQUEST_STOP);
	__atomic_store_n(&machine.stop, true, __ATOMIC_RELAXED);
	for (uint32_t i = 0; i < DEVICES + 2; i++) {
		end(&cpus[i]);
		totals[0] += cpus[i].requests;
		totals[1] += cpus[i].resets;
	}
	serial_get_stats(machine.serial, &stats);
	totals[2] += stats.sent;
	tear_down(&machine);
}

int main(int argc, char **argv)
{
	uint64_t random = strtoull(argc > 1 ? argv[1] : "1", NULL, 0) * 0x9e3779b97f4a7c15ULL | 1;
	int lives = argc > 2 ? atoi(argv[2]) : 10;
	uint64_t totals[3] = {0};

	guard_setup();
	for (int i = 0; i < lives; i++)
		live(&random, totals);
	printf("%llu %llu %llu\n", (unsigned long long)totals[0], (unsigned long long)totals[1],
	       (unsigned long long)totals[2]);
	return 0;
}
