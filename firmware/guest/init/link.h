/* The bytes between a channel and the exec protocol: frames in, frames out, buffers of a fixed size. */
#pragma once

#include "frame.h"

enum {
	OUT_MAX = 65536,
	IN_MAX = 65536,
	OUT_RESERVE = 512, /* kept free of output: room for the control frames of one host frame */
};

/* Room for payload of a frame that may be sent now, beyond the reserve. */
size_t link_room(void);

/* Where the payload of the next frame goes: link_room() bytes. Sent by link_commit. */
uint8_t *link_payload(void);
void link_commit(uint8_t type, uint8_t run, uint16_t length);

/* Queue a small frame, from the reserve if need be; false when there is no room even there. */
bool link_send(uint8_t type, uint8_t run, const void *payload, uint16_t length);
bool link_send32(uint8_t type, uint8_t run, uint32_t value);
/* Queue *length* zero bytes, which are no frame. */
void link_fill(size_t length);
bool link_has_reserve(void);
bool link_unsent(void);
/* Whether something was refused for want of room since the last call: it is to be tried again. */
bool link_was_short(void);

/* Write what *fd* takes now. */
void link_flush(int fd);
/* Drop everything in both directions. */
void link_drop_output(void);
void link_drop_input(void);

/* Read what *fd* has; false at its end or when it failed. */
bool link_read(int fd);
bool link_in_room(void);
/* The next whole frame, valid until the next call of this or link_read; false when there is none. */
bool link_next(struct frame *frame);
/* Whether a frame has begun and is not complete. */
bool link_partial(void);
/* The frame of *size* bytes that what is held ends in, if it does; everything held is dropped then. */
bool link_tail(size_t size, uint8_t type, struct frame *frame);
