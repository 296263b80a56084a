/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How a device serves a queue: chains taken and given back, in turns. For data paths, on the I/O
 * thread.
 */
#ifndef PYVMM_VIRTIO_SERVE_H
#define PYVMM_VIRTIO_SERVE_H

#include "virtio/device.h"

/* The next chain of a queue, in queue->chain; false where there is none, or where the driver broke
 * a rule (which this reports) now or before. */
bool virtio_pop(struct virtio_queue *queue);
void virtio_push(struct virtio_queue *queue, uint32_t written);

/* Turns. Taking a chain costs by its descriptors, what is done with it is for the device to say. A
 * device begins one, goes on until it is over, and asks for the next one if there is more. */
void virtio_begin_turn(struct virtio_queue *queue);
void virtio_spend(struct virtio_queue *queue, uint64_t bytes);
bool virtio_turn_is_over(const struct virtio_queue *queue);
void virtio_ask_turn(struct virtio_queue *queue);

/* Looks again for chains, having asked for kicks: whether there are some. */
bool virtio_look_again(struct virtio_queue *queue);

/* Handles the queue's chain, consuming its lists, or, if that is held, goes on with it. 0 and the
 * bytes written, VIRTIO_SERVE_MORE once the turn is over before it is through, or -violation. */
typedef int virtio_serve_fn(struct virtio_queue *queue, uint32_t *written);
enum { VIRTIO_SERVE_MORE = 1 };

/* Serves what is available for a turn, without kicks meanwhile and with few interrupts. */
void virtio_serve(struct virtio_queue *queue, virtio_serve_fn *serve);

#endif
