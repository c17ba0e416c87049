#include "frame.h"

#include "text.h"

/*
 * CRC-32 of IEEE 802.3, reflected polynomial 0xedb88320: what zlib calls crc32. Eight bytes a step:
 * crc_table[n] is the effect of a byte that n more bytes follow.
 */
static uint32_t crc_table[8][256];

void frame_start(void)
{
	for (uint32_t i = 0; i < 256; i++) {
		uint32_t crc = i;

		for (int bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (crc & 1 ? 0xedb88320 : 0);
		crc_table[0][i] = crc;
	}
	for (int n = 1; n < 8; n++)
		for (int i = 0; i < 256; i++)
			crc_table[n][i] = crc_table[n - 1][i] >> 8 ^ crc_table[0][crc_table[n - 1][i] & 0xff];
}

static uint32_t crc32(const uint8_t *data, size_t size)
{
	uint32_t crc = 0xffffffff;

	for (; size >= 8; size -= 8, data += 8) {
		uint32_t low = crc ^ load32(data), high = load32(data + 4);

		crc = crc_table[7][low & 0xff] ^ crc_table[6][low >> 8 & 0xff] ^
		      crc_table[5][low >> 16 & 0xff] ^ crc_table[4][low >> 24] ^
		      crc_table[3][high & 0xff] ^ crc_table[2][high >> 8 & 0xff] ^
		      crc_table[1][high >> 16 & 0xff] ^ crc_table[0][high >> 24];
	}
	while (size--)
		crc = crc >> 8 ^ crc_table[0][(crc ^ *data++) & 0xff];
	return ~crc;
}

size_t frame_seal(uint8_t *out, uint8_t type, uint8_t run, uint16_t length)
{
	store16(out, FRAME_MAGIC);
	out[2] = type;
	out[3] = run;
	store16(out + 4, length);
	store16(out + 6, (uint16_t)crc32(out, 6));
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
