/* SPDX-License-Identifier: Apache-2.0 */
#include "serial/serial.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "host/iothread.h"
#include "serial/line.h"

enum {
	RBR = 0, /* read; THR on write; DLL while LCR_DLAB */
	IER = 1, /* DLM while LCR_DLAB */
	IIR = 2, /* read; FCR on write */
	LCR = 3,
	MCR = 4,
	LSR = 5,
	MSR = 6,
	SCR = 7,

	IER_RX = 0x01,
	IER_THR = 0x02,
	IER_LINE = 0x04,
	IER_MODEM = 0x08,
	IER_MASK = 0x0f,

	IIR_MODEM = 0x00,
	IIR_NONE = 0x01,
	IIR_THR = 0x02,
	IIR_RX = 0x04,
	IIR_LINE = 0x06,
	IIR_TIMEOUT = 0x0c,
	IIR_FIFOS = 0xc0,

	FCR_ENABLE = 0x01,
	FCR_RESET_RX = 0x02,
	FCR_KEPT = 0xc9,

	LCR_DLAB = 0x80,

	MCR_DTR = 0x01,
	MCR_RTS = 0x02,
	MCR_OUT1 = 0x04,
	MCR_OUT2 = 0x08,
	MCR_LOOP = 0x10,
	MCR_MASK = 0x1f,

	LSR_DATA = 0x01,
	LSR_OVERRUN = 0x02,
	LSR_EMPTY = 0x60, /* THRE and TEMT: what is accepted counts as sent, for it will be */

	MSR_CTS = 0x10,
	MSR_DSR = 0x20,
	MSR_RI = 0x40,
	MSR_DCD = 0x80,
	MSR_LINES = 0xf0,
	MSR_DELTAS = 0x0f,
	MSR_RI_TRAILING = 0x04,
	MSR_HOST = MSR_CTS | MSR_DSR | MSR_DCD, /* somebody is always there and ready */

	FIFO_SIZE = SERIAL_FIFO,

	/* How long a write to a full transmitter waits for the reader of the output. Linux's
	 * console stops polling for THRE after 10 ms and writes regardless. */
	FULL_WAIT_NS = 20 * 1000 * 1000,
};

struct serial {
	pthread_mutex_t lock; /* all below but the line's own thread state */
	pthread_cond_t room;  /* the line wrote something */
	struct serial_line line;
	int irq_fd;
	uint8_t ier, fcr, lcr, mcr, msr, scr, dll, dlm;
	bool overrun;
	bool thr_pending; /* the transmitter became empty and the guest has not been told */
	bool mcr_used;
	bool polled;
	uint8_t signalled; /* the sources that the guest has had an edge for */
	uint8_t fifo[FIFO_SIZE];
	uint32_t fifo_first, fifo_count;
	uint32_t fifo_looped; /* by place in the FIFO: the byte came by loopback */
	struct serial_stats stats;
};

/* The interrupt sources that are up, as IER bits. */
static uint8_t sources(const struct serial *serial)
{
	uint8_t up = 0;

	if (serial->fifo_count)
		up |= IER_RX;
	if (serial->thr_pending)
		up |= IER_THR;
	if (serial->overrun)
		up |= IER_LINE;
	if (serial->msr & MSR_DELTAS)
		up |= IER_MODEM;
	return up & serial->ier;
}

/* COM1 is an edge-triggered ISA interrupt. The wire rises once for any number of sources, but an
 * edge for each keeps a driver alive that serves one source an interrupt. OUT2 does not gate it:
 * that is the board's doing, not the chip's, and small guests forget it. */
static void update_interrupt(struct serial *serial)
{
	uint8_t up = sources(serial);
	uint8_t gained = up & ~serial->signalled;

	serial->signalled = up;
	if (!gained)
		return;
	serial->stats.interrupts++;
	if (serial->irq_fd >= 0)
		eventfd_signal(serial->irq_fd);
}

/* Input waits for a guest that is ready for it, as a peer with hardware flow control does: else
 * what is piped in before the guest's driver is up would vanish in the driver's probing. A guest
 * that never touches MCR shows its interest by polling, one without RTS by its interrupt. */
static bool receiving(const struct serial *serial)
{
	if (serial->mcr & MCR_LOOP)
		return false;
	if (!serial->mcr_used)
		return serial->polled;
	return (serial->mcr & MCR_RTS) || ((serial->mcr & MCR_OUT2) && (serial->ier & IER_RX));
}

static uint32_t fifo_capacity(const struct serial *serial)
{
	return serial->fcr & FCR_ENABLE ? FIFO_SIZE : 1;
}

static void fifo_push(struct serial *serial, uint8_t byte, bool looped)
{
	uint32_t place = (serial->fifo_first + serial->fifo_count++) % FIFO_SIZE;

	serial->fifo[place] = byte;
	serial->fifo_looped &= ~(1U << place);
	serial->fifo_looped |= (uint32_t)looped << place;
}

/* Input stays: the driver resets the FIFO as it starts, after it has said that it takes input. */
static void fifo_reset(struct serial *serial)
{
	uint8_t kept[FIFO_SIZE] = {0};
	uint64_t count = 0;

	for (uint32_t i = 0; i < serial->fifo_count; i++) {
		uint32_t place = (serial->fifo_first + i) % FIFO_SIZE;

		if (!(serial->fifo_looped >> place & 1))
			kept[count++] = serial->fifo[place];
	}
	serial->fifo_count = 0;
	serial_line_return(&serial->line, kept, count);
}

static void refill(struct serial *serial)
{
	uint8_t byte;

	while (serial->fifo_count < fifo_capacity(serial) && receiving(serial) &&
	       serial_line_take(&serial->line, &byte))
		fifo_push(serial, byte, false);
}

static uint8_t read_rbr(struct serial *serial)
{
	uint8_t byte = serial->fifo[serial->fifo_first % FIFO_SIZE];

	serial->polled = true;
	if (serial->fifo_count) {
		serial->fifo_first++;
		serial->fifo_count--;
		serial->stats.received++;
	}
	refill(serial);
	update_interrupt(serial);
	return byte;
}

static uint8_t identify(const struct serial *serial)
{
	static const uint8_t triggers[] = {1, 4, 8, 14};
	uint8_t up = sources(serial);

	if (up & IER_LINE)
		return IIR_LINE;
	if (up & IER_RX) {
		/* No time passes between characters here, so a rest below the trigger level has
		 * timed out at once. */
		if (serial->fcr & FCR_ENABLE && serial->fifo_count < triggers[serial->fcr >> 6])
			return IIR_TIMEOUT;
		return IIR_RX;
	}
	if (up & IER_THR)
		return IIR_THR;
	return up & IER_MODEM ? IIR_MODEM : IIR_NONE;
}

static uint8_t read_iir(struct serial *serial)
{
	uint8_t id = identify(serial);

	if (id == IIR_THR) {
		serial->thr_pending = false;
		update_interrupt(serial);
	}
	return id | (serial->fcr & FCR_ENABLE ? IIR_FIFOS : 0);
}

static uint8_t read_lsr(struct serial *serial)
{
	uint8_t lsr = serial->line.blocked ? 0 : LSR_EMPTY;

	if (!serial->polled) {
		serial->polled = true;
		refill(serial);
		update_interrupt(serial);
	}
	if (serial->fifo_count)
		lsr |= LSR_DATA;
	if (serial->overrun) {
		lsr |= LSR_OVERRUN;
		serial->overrun = false;
		update_interrupt(serial);
	}
	return lsr;
}

static uint8_t read_msr(struct serial *serial)
{
	uint8_t msr = serial->msr;

	if (msr & MSR_DELTAS) {
		serial->msr &= MSR_LINES;
		update_interrupt(serial);
	}
	return msr;
}

static uint8_t read_register(struct serial *serial, uint64_t index)
{
	bool dlab = serial->lcr & LCR_DLAB;

	switch (index) {
	case RBR:
		return dlab ? serial->dll : read_rbr(serial);
	case IER:
		return dlab ? serial->dlm : serial->ier;
	case IIR:
		return read_iir(serial);
	case LCR:
		return serial->lcr;
	case MCR:
		return serial->mcr;
	case LSR:
		return read_lsr(serial);
	case MSR:
		return read_msr(serial);
	case SCR:
		return serial->scr;
	default:
		return 0xff;
	}
}

/* The FIFO keeps what it has when it runs over, the single register takes the newer byte. */
static void loop_back(struct serial *serial, uint8_t byte)
{
	if (serial->fifo_count < fifo_capacity(serial)) {
		fifo_push(serial, byte, true);
		return;
	}
	serial->overrun = true;
	serial->stats.overruns++;
	if (!(serial->fcr & FCR_ENABLE))
		serial->fifo[serial->fifo_first % FIFO_SIZE] = byte;
}

static bool wait_for_room(struct serial *serial)
{
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_nsec += FULL_WAIT_NS;
	if (until.tv_nsec >= 1000000000) {
		until.tv_nsec -= 1000000000;
		until.tv_sec++;
	}
	while (serial_line_full(&serial->line)) {
		if (pthread_cond_timedwait(&serial->room, &serial->lock, &until))
			return !serial_line_full(&serial->line);
	}
	return true;
}

static void write_thr(struct serial *serial, uint8_t byte)
{
	if (serial->mcr & MCR_LOOP) {
		loop_back(serial, byte);
		serial->thr_pending = true;
		update_interrupt(serial);
		return;
	}
	serial->stats.sent++;
	if (!serial_line_full(&serial->line) || wait_for_room(serial))
		serial_line_put(&serial->line, byte);
	else
		serial->stats.dropped++;
	/* IIR says at once that there is room again, but the edge comes when the line has written:
	 * a handler that loops over IIR would otherwise be interrupted once more for nothing. */
	serial->thr_pending = !serial->line.blocked;
	serial->signalled &= ~IER_THR;
	if (!serial->line.open)
		update_interrupt(serial);
}

static void write_ier(struct serial *serial, uint8_t value)
{
	if (value & ~serial->ier & IER_THR && !serial->line.blocked)
		serial->thr_pending = true;
	serial->ier = value & IER_MASK;
	refill(serial);
	update_interrupt(serial);
}

/* Resetting the transmitter loses nothing: what it took is on its way. */
static void write_fcr(struct serial *serial, uint8_t value)
{
	if ((value ^ serial->fcr) & FCR_ENABLE || value & FCR_RESET_RX)
		fifo_reset(serial);
	serial->fcr = value & FCR_ENABLE ? value & FCR_KEPT : 0;
	refill(serial);
	update_interrupt(serial);
}

static uint8_t modem_lines(const struct serial *serial)
{
	uint8_t mcr = serial->mcr, lines = 0;

	if (!(mcr & MCR_LOOP))
		return MSR_HOST;
	if (mcr & MCR_RTS)
		lines |= MSR_CTS;
	if (mcr & MCR_DTR)
		lines |= MSR_DSR;
	if (mcr & MCR_OUT1)
		lines |= MSR_RI;
	if (mcr & MCR_OUT2)
		lines |= MSR_DCD;
	return lines;
}

static void write_mcr(struct serial *serial, uint8_t value)
{
	uint8_t lines, deltas;

	serial->mcr = value & MCR_MASK;
	serial->mcr_used = true;
	lines = modem_lines(serial);
	deltas = ((serial->msr ^ lines) & MSR_LINES) >> 4;
	if (lines & MSR_RI)
		deltas &= ~MSR_RI_TRAILING;
	serial->msr = lines | (serial->msr & MSR_DELTAS) | deltas;
	refill(serial);
	update_interrupt(serial);
}

static void write_register(struct serial *serial, uint64_t index, uint8_t value)
{
	bool dlab = serial->lcr & LCR_DLAB;

	switch (index) {
	case RBR:
		if (dlab)
			serial->dll = value;
		else
			write_thr(serial, value);
		break;
	case IER:
		if (dlab)
			serial->dlm = value;
		else
			write_ier(serial, value);
		break;
	case IIR:
		write_fcr(serial, value);
		break;
	case LCR:
		serial->lcr = value;
		break;
	case MCR:
		write_mcr(serial, value);
		break;
	case SCR:
		serial->scr = value;
		break;
	default: /* LSR and MSR: factory tests only */
		break;
	}
}

/* A wider access is as many byte accesses, as on the ISA bus. */
int serial_access(void *opaque, struct bus_access *access)
{
	struct serial *serial = opaque;
	uint64_t value = 0;

	pthread_mutex_lock(&serial->lock);
	serial->stats.accesses++;
	for (uint32_t i = 0; i < access->length && i < sizeof(value); i++) {
		uint64_t index = access->offset + i;

		if (access->is_write)
			write_register(serial, index, (uint8_t)(access->value >> (8 * i)));
		else
			value |= (uint64_t)read_register(serial, index) << (8 * i);
	}
	pthread_mutex_unlock(&serial->lock);
	if (!access->is_write)
		access->value = value;
	return BUS_DONE;
}

/* Called by the line with the lock held. */
static void line_changed(void *opaque)
{
	struct serial *serial = opaque;

	pthread_cond_broadcast(&serial->room);
	refill(serial);
	if (serial->line.unblocked) {
		serial->line.unblocked = false;
		serial->thr_pending = true;
	}
	update_interrupt(serial);
}

static void init_room(struct serial *serial)
{
	pthread_condattr_t attr;

	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&serial->room, &attr);
	pthread_condattr_destroy(&attr);
}

static void release(struct serial *serial)
{
	pthread_cond_destroy(&serial->room);
	pthread_mutex_destroy(&serial->lock);
	free(serial);
}

struct serial *serial_create(const struct serial_config *config)
{
	struct serial *serial = calloc(1, sizeof(*serial));
	int ret;

	if (!serial)
		return NULL;
	pthread_mutex_init(&serial->lock, NULL);
	init_room(serial);
	serial->irq_fd = config->irq_fd;
	serial->msr = MSR_HOST;
	ret = serial_line_open(&serial->line, config, &serial->lock, line_changed, serial);
	if (ret) {
		release(serial);
		errno = -ret;
		return NULL;
	}
	return serial;
}

int serial_stop(struct serial *serial, uint32_t timeout_ms)
{
	return serial_line_stop(&serial->line, timeout_ms);
}

void serial_destroy(struct serial *serial)
{
	if (!serial)
		return;
	serial_line_close(&serial->line);
	release(serial);
}

uint64_t serial_feed(struct serial *serial, const uint8_t *bytes, uint64_t length)
{
	uint64_t taken;

	pthread_mutex_lock(&serial->lock);
	taken = serial_line_give(&serial->line, bytes, length);
	refill(serial);
	update_interrupt(serial);
	pthread_mutex_unlock(&serial->lock);
	return taken;
}

uint64_t serial_tail(struct serial *serial, uint8_t *buffer, uint64_t length)
{
	uint64_t count;

	pthread_mutex_lock(&serial->lock);
	count = serial_line_tail(&serial->line, buffer, length);
	pthread_mutex_unlock(&serial->lock);
	return count;
}

int serial_drain(struct serial *serial, uint32_t timeout_ms)
{
	struct timespec until;
	uint64_t target, nanoseconds;
	int ret = 0;

	clock_gettime(CLOCK_MONOTONIC, &until);
	nanoseconds = (uint64_t)until.tv_nsec + timeout_ms % 1000 * UINT64_C(1000000);
	until.tv_sec += timeout_ms / 1000 + nanoseconds / 1000000000;
	until.tv_nsec = (long)(nanoseconds % 1000000000);
	pthread_mutex_lock(&serial->lock);
	target = serial->line.sent;
	serial_line_flush(&serial->line);
	while (!ret && serial->line.written < target)
		ret = pthread_cond_timedwait(&serial->room, &serial->lock, &until);
	if (serial->line.written >= target)
		ret = 0;
	pthread_mutex_unlock(&serial->lock);
	return -ret;
}

void serial_get_stats(struct serial *serial, struct serial_stats *stats)
{
	const struct serial_line *line = &serial->line;

	pthread_mutex_lock(&serial->lock);
	*stats = serial->stats;
	stats->written = line->written - line->lost;
	stats->dropped += line->lost;
	stats->waiting = serial->fifo_count + serial_line_waiting(line);
	stats->refused = line->refused;
	stats->output_error = line->output_error;
	stats->log_error = line->log_error;
	pthread_mutex_unlock(&serial->lock);
}
