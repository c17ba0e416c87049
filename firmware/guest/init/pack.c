#include <asm/stat.h>

#include "files.h"
#include "newc.h"
#include "text.h"

enum { DEPTH_MAX = 100 }; /* directories in each other; a stack frame each */

static uint8_t content[FILES_BUFFER];
static char path[PATH_MAX + 2]; /* of the entry at hand; its first *top_size* bytes are what is packed */
static size_t top_size;
static uint32_t number_of_entries;
static int first_failure;

static void fail(const char *what, long result)
{
	complain_errno(what, path, result);
	if (!first_failure)
		first_failure = (int)-result;
}

/* Standard output is a pipe that the server reads; when it goes away, SIGPIPE ends us. */
static void put(const void *data, size_t size) { write_all(1, data, size); }

static void put_padding(uint32_t size) { put("\0\0\0", newc_padding(size)); }

static void put_header(uint32_t mode, uint32_t mtime, uint32_t size, const char *name)
{
	struct newc header = {
		.ino = ++number_of_entries,
		.mode = mode,
		.nlink = (mode & S_IFMT) == S_IFDIR ? 2 : 1,
		.mtime = mtime,
		.filesize = size,
		.namesize = (uint32_t)strlen(name) + 1,
	};
	const uint32_t *numbers = (const uint32_t *)&header;
	char text[NEWC_HEADER];
	char *to = text;

	memcpy(to, NEWC_MAGIC, strlen(NEWC_MAGIC));
	to += strlen(NEWC_MAGIC);
	for (int i = 0; i < NEWC_NUMBERS; i++)
		for (int shift = 28; shift >= 0; shift -= 4)
			*to++ = "0123456789ABCDEF"[numbers[i] >> shift & 15];
	put(text, sizeof(text));
	put(name, header.namesize);
	put_padding(NEWC_HEADER + header.namesize);
}

static const char *entry_name(void) { return path[top_size] ? path + top_size + 1 : "."; }

static uint32_t time_of(const struct stat *status)
{
	long time = (long)status->st_mtime;

	return time < 0 ? 0 : time > 0xffffffffL ? 0xffffffff : (uint32_t)time;
}

static void pack_link(const struct stat *status)
{
	long size = SYS4(readlinkat, AT_FDCWD, path, content, PATH_MAX);

	if (size < 0) {
		fail("cannot read ", size);
		return;
	}
	put_header(status->st_mode, time_of(status), (uint32_t)size, entry_name());
	put(content, (size_t)size);
	put_padding((uint32_t)size);
}

/*
 * The header has the size, and files of /proc and /sys do not tell theirs: what fits into the buffer is
 * read first. A larger file that becomes shorter meanwhile is filled up with zeros and reported.
 */
static void pack_file(const struct stat *status)
{
	uint64_t size = (uint64_t)status->st_size, left;
	size_t held = 0;
	long got = 1;
	int fd = sys_open(path, O_RDONLY);

	if (fd < 0) {
		fail("cannot read ", fd);
		return;
	}
	while (held < sizeof(content) && (got = sys_read(fd, content + held, sizeof(content) - held)) > 0)
		held += (size_t)got;
	if (got <= 0)
		size = held;
	if (got < 0 || size < held || size > 0xffffffff) {
		if (got < 0)
			fail("cannot read ", got);
		else if (size < held)
			fail("cannot be packed, since its size is not known beforehand; read it with a command: ",
			     -ESPIPE);
		else
			fail("an archive holds files of less than 4 GiB: ", -EFBIG);
		sys_close(fd);
		return;
	}
	put_header(status->st_mode, time_of(status), (uint32_t)size, entry_name());
	put(content, held);
	for (left = size - held; left; left -= (uint64_t)got) {
		size_t most = left < sizeof(content) ? (size_t)left : sizeof(content);

		got = sys_read(fd, content, most);
		if (got <= 0) {
			fail("became shorter while it was read: ", got < 0 ? got : -EIO);
			memset(content, 0, sizeof(content));
			while (left) {
				most = left < sizeof(content) ? (size_t)left : sizeof(content);
				put(content, most);
				left -= most;
			}
			break;
		}
		put(content, (size_t)got);
	}
	put_padding((uint32_t)size);
	sys_close(fd);
}

static void pack(int depth, int flags);

static bool pack_member(const char *name, void *context)
{
	size_t size = strlen(path);

	if (name[0] == '.' && (!name[1] || (name[1] == '.' && !name[2])))
		return true;
	if (size + 1 + strlen(name) >= PATH_MAX) {
		fail("has names that are too long below it: ", -ENAMETOOLONG);
		return true;
	}
	join(path + size, sizeof(path) - size, "/", name, NULL);
	pack(*(int *)context + 1, AT_SYMLINK_NOFOLLOW);
	path[size] = 0;
	return true;
}

static void pack(int depth, int flags)
{
	struct stat status;
	long result = SYS4(newfstatat, AT_FDCWD, path, &status, flags);

	if (result) {
		if (!depth || result != -ENOENT) /* else it went away meanwhile */
			fail("cannot read ", result);
		return;
	}
	switch (status.st_mode & S_IFMT) {
	case S_IFREG:
		pack_file(&status);
		return;
	case S_IFLNK:
		pack_link(&status);
		return;
	case S_IFDIR:
		if (depth == DEPTH_MAX) {
			fail("is too deep: ", -ELOOP);
			return;
		}
		put_header(status.st_mode, time_of(&status), 0, entry_name());
		result = each_entry(path, pack_member, &depth);
		if (result)
			fail("cannot read ", result);
		return;
	}
	if (!depth)
		fail("is no file, directory or symbolic link: ", -EINVAL);
	else
		complain("left out, as it is no file, directory or symbolic link: ", path, NULL);
}

int files_pack(const char *top)
{
	top_size = strlen(top);
	while (top_size > 1 && top[top_size - 1] == '/')
		top_size--;
	if (top_size >= PATH_MAX) {
		complain("the path is too long", NULL);
		return ENAMETOOLONG;
	}
	memcpy(path, top, top_size);
	pack(0, 0);
	number_of_entries = (uint32_t)-1;
	put_header(0, 0, 0, NEWC_END);
	return first_failure;
}
