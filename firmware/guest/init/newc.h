/* Headers of cpio archives: Linux Documentation/driver-api/early-userspace/buffer-format.rst, "newc". */
#pragma once

#include <linux/limits.h>

#include "sys.h"

#define NEWC_MAGIC "070701"
#define NEWC_END "TRAILER!!!"

enum { NEWC_HEADER = 110, NEWC_NUMBERS = 13, FILES_BUFFER = 65536 };

struct newc { /* in this order, eight hexadecimal digits each, behind the magic */
	uint32_t ino, mode, uid, gid, nlink, mtime, filesize;
	uint32_t devmajor, devminor, rdevmajor, rdevminor, namesize, check;
};

static inline uint32_t newc_padding(uint32_t size) { return -size & 3; }
