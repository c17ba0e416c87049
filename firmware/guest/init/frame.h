/*
 * Frames of the exec protocol, version 2 (docs/internals/exec-protocol.md):
 *   u16 magic, u8 type, u8 run, u16 length, u16 low half of CRC-32 of these six bytes,
 *   payload, u32 CRC-32 of the payload; all little-endian.
 */
#pragma once

#include "sys.h"

enum {
	PROTOCOL_VERSION = 2,
	FRAME_MAGIC = 0x9df6,
	FRAME_HEADER = 8,
	FRAME_OVERHEAD = 12,
	PAYLOAD_MAX = 16384,
	REQUEST_MAX = 65536,
};

enum host_frame {
	HOST_HELLO = 0x01,
	HOST_PART = 0x02,
	HOST_RUN = 0x03,
	HOST_STDIN = 0x04,
	HOST_EOF = 0x05,
	HOST_CREDIT = 0x06,
	HOST_RESIZE = 0x07,
	HOST_SIGNAL = 0x08,
	HOST_POWER = 0x09,
	HOST_PING = 0x0a,
};

enum guest_frame {
	GUEST_HELLO = 0x81,
	GUEST_STDOUT = 0x82,
	GUEST_STDERR = 0x83,
	GUEST_CREDIT = 0x84,
	GUEST_EXIT = 0x85,
	GUEST_PONG = 0x86,
};

struct frame {
	uint8_t type;
	uint8_t run;
	uint16_t length;
	const uint8_t *payload; /* inside the scanned buffer */
};

void frame_start(void); /* fills the CRC tables; once */

/* Put header and checksums around the payload that is at *out* + FRAME_HEADER; the frame's size. */
size_t frame_seal(uint8_t *out, uint8_t type, uint8_t run, uint16_t length);

/*
 * Look for a frame in *size* bytes. Returns how many bytes are used up: noise, or one frame,
 * which is then in *found* (*complete* is set). 0: more bytes are needed.
 */
size_t frame_scan(const uint8_t *data, size_t size, struct frame *found, bool *complete);

static inline uint16_t load16(const uint8_t *p) { return (uint16_t)(p[0] | p[1] << 8); }
static inline uint32_t load32(const uint8_t *p)
{
	return load16(p) | (uint32_t)load16(p + 2) << 16;
}
static inline void store16(uint8_t *p, uint16_t v)
{
	p[0] = (uint8_t)v;
	p[1] = (uint8_t)(v >> 8);
}
static inline void store32(uint8_t *p, uint32_t v)
{
	store16(p, (uint16_t)v);
	store16(p + 2, (uint16_t)(v >> 16));
}
