#include "frame.h"

#include "text.h"

/* CRC-32 of IEEE 802.3, reflected polynomial 0xedb88320: what zlib calls crc32. */
static uint32_t crc_table[256];

void frame_start(void)
{
	for (uint32_t i = 0; i < 256; i++) {
		uint32_t crc = i;

		for (int bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (crc & 1 ? 0xedb88320 : 0);
		crc_table[i] = crc;
	}
}

static uint32_t crc32(const uint8_t *data, size_t size)
{
	uint32_t crc = 0xffffffff;

	while (size--)
		crc = crc >> 8 ^ crc_table[(crc ^ *data++) & 0xff];
	return ~crc;
}

size_t frame_encode(uint8_t *out, uint8_t type, uint8_t run, const void *payload, uint16_t length)
{
	store16(out, FRAME_MAGIC);
	out[2] = type;
	out[3] = run;
	store16(out + 4, length);
	store16(out + 6, (uint16_t)crc32(out, 6));
	memcpy(out + FRAME_HEADER, payload, length);
	store32(out + FRAME_HEADER + length, crc32(out + FRAME_HEADER, length));
	return FRAME_OVERHEAD + length;
}

size_t frame_scan(const uint8_t *data, size_t size, struct frame *found, bool *complete)
{
	size_t skip = 0;

	*complete = false;
	while (skip + 1 < size && load16(data + skip) != FRAME_MAGIC)
		skip++;
	if (skip + 1 == size && data[skip] != (FRAME_MAGIC & 0xff))
		skip++;
	if (skip)
		return skip;
	if (size < FRAME_HEADER)
		return 0;
	found->type = data[2];
	found->run = data[3];
	found->length = load16(data + 4);
	if (load16(data + 6) != (uint16_t)crc32(data, 6) || found->length > PAYLOAD_MAX)
		return 1;
	if (size < (size_t)FRAME_OVERHEAD + found->length)
		return 0;
	found->payload = data + FRAME_HEADER;
	if (load32(found->payload + found->length) != crc32(found->payload, found->length))
		return 1;
	*complete = true;
	return FRAME_OVERHEAD + found->length;
}
