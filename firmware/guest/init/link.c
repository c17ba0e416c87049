#include "link.h"

#include "text.h"

enum { PAGE = 4096 }; /* what a virtio port gives at a time, at most */

static struct {
	uint8_t data[OUT_MAX];
	size_t start, end;
	bool was_short;
} out;

static struct {
	uint8_t data[IN_MAX];
	size_t start, end;
} in;

static void *compact(uint8_t *data, size_t *start, size_t *end)
{
	if (*start)
		memmove(data, data + *start, *end - *start);
	*end -= *start;
	*start = 0;
	return data + *end;
}

static size_t free_room(void) { return OUT_MAX - (out.end - out.start); }

/* Make *size* bytes behind out.end usable. */
static bool reserve(size_t size)
{
	if (free_room() < size) {
		out.was_short = true;
		return false;
	}
	if (OUT_MAX - out.end < size)
		compact(out.data, &out.start, &out.end);
	return true;
}

size_t link_room(void)
{
	size_t room = free_room(), taken = OUT_RESERVE + FRAME_OVERHEAD;

	room = room < taken ? 0 : room - taken;
	return room > PAYLOAD_MAX ? PAYLOAD_MAX : room;
}

uint8_t *link_payload(void)
{
	reserve(FRAME_OVERHEAD + link_room());
	return out.data + out.end + FRAME_HEADER;
}

void link_commit(uint8_t type, uint8_t run, uint16_t length)
{
	out.end += frame_seal(out.data + out.end, type, run, length);
}

bool link_send(uint8_t type, uint8_t run, const void *payload, uint16_t length)
{
	if (!reserve((size_t)FRAME_OVERHEAD + length))
		return false;
	memcpy(out.data + out.end + FRAME_HEADER, payload, length);
	link_commit(type, run, length);
	return true;
}

bool link_send32(uint8_t type, uint8_t run, uint32_t value)
{
	uint8_t payload[4];

	store32(payload, value);
	return link_send(type, run, payload, sizeof(payload));
}

void link_fill(size_t length)
{
	if (!reserve(length))
		return;
	memset(out.data + out.end, 0, length);
	out.end += length;
}

bool link_has_reserve(void) { return reserve(OUT_RESERVE); }

bool link_was_short(void)
{
	bool was = out.was_short;

	out.was_short = false;
	return was;
}

bool link_unsent(void) { return out.start < out.end; }

void link_flush(int fd)
{
	while (out.start < out.end) {
		long done = sys_write(fd, out.data + out.start, out.end - out.start);

		if (done <= 0)
			return;
		out.start += done;
	}
	out.start = out.end = 0;
}

void link_drop_output(void) { out.start = out.end = 0; }

void link_drop_input(void) { in.start = in.end = 0; }

bool link_in_room(void) { return in.end - in.start < IN_MAX; }

bool link_read(int fd)
{
	uint8_t *at = compact(in.data, &in.start, &in.end);
	long got = PAGE;

	while (in.end < IN_MAX && got >= PAGE) {
		got = sys_read(fd, at, IN_MAX - in.end);
		if (got <= 0)
			return got == -EAGAIN || got == -EINTR;
		at += got;
		in.end += got;
	}
	return true;
}

bool link_next(struct frame *frame)
{
	bool complete = false;
	size_t used;

	while (!complete && in.start < in.end &&
	       (used = frame_scan(in.data + in.start, in.end - in.start, frame, &complete)))
		in.start += used;
	return complete;
}

bool link_partial(void) { return in.start < in.end; }

bool link_tail(size_t size, uint8_t type, struct frame *frame)
{
	bool complete;

	if (in.end - in.start < size)
		return false;
	frame_scan(in.data + in.end - size, size, frame, &complete);
	if (!complete || frame->type != type)
		return false;
	in.start = in.end;
	return true;
}
