#include <asm/stat.h>

#include "files.h"
#include "newc.h"
#include "text.h"

enum { DIRECTORIES_STEP = 1 << 20 };

static uint8_t buffer[FILES_BUFFER];
static size_t at, end;

static char path[PATH_MAX + 2]; /* of the entry at hand; its first *target_size* bytes are the target */
static size_t target_size;

/* Directories that were made here get their mode and time when all is in them. */
struct made {
	uint32_t mode, mtime;
	uint32_t before; /* how far back the previous record begins; 0: none */
	char path[];
};
static uint8_t *made;
static size_t made_size, made_room, made_last;

static int fail(const char *what, long result)
{
	complain_errno(what, path, result);
	return (int)-result;
}

static int malformed(const char *why)
{
	complain("the archive ", why, NULL);
	return EINVAL;
}

/* Bytes that can be taken at buffer + at: 1 to *most*, 0 at the end of the input. */
static size_t available(size_t most)
{
	if (at == end) {
		long got = sys_read(0, buffer, sizeof(buffer));

		at = 0;
		end = got > 0 ? (size_t)got : 0;
	}
	return end - at < most ? end - at : most;
}

static bool take(void *to, size_t size)
{
	for (size_t part; size; size -= part) {
		part = available(size);
		if (!part)
			return false;
		if (to) {
			memcpy(to, buffer + at, part);
			to = (uint8_t *)to + part;
		}
		at += part;
	}
	return true;
}

static bool parse(const char *text, struct newc *header)
{
	uint32_t *numbers = (uint32_t *)header;

	for (int i = 0; i < NEWC_NUMBERS * 8; i++) {
		char c = text[i];
		uint32_t digit = (uint32_t)(c >= '0' && c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10);

		if (digit > 15)
			return false;
		numbers[i / 8] = numbers[i / 8] << 4 | digit;
	}
	return true;
}

/* Relative, and without "..": what is unpacked lies at or below the target. */
static bool is_inside(const char *name)
{
	if (*name == '/' || !*name)
		return false;
	for (const char *part = name; part; part = next_part(part))
		if (part[0] == '.' && part[1] == '.' && (part[2] == '/' || !part[2]))
			return false;
	return true;
}

static void set_time(const char *name, uint32_t mtime)
{
	struct __kernel_timespec times[2] = { { mtime, 0 }, { mtime, 0 } };

	SYS4(utimensat, AT_FDCWD, name, times, AT_SYMLINK_NOFOLLOW);
}

static int remember(const struct newc *header)
{
	size_t size = (sizeof(struct made) + strlen(path) + 1 + 7) & ~(size_t)7;
	struct made *record;

	if (made_size + size > made_room) {
		uint8_t *more = sys_map(made_room + DIRECTORIES_STEP);

		if (!more)
			return fail("too many directories at ", -ENOMEM);
		if (made) {
			memcpy(more, made, made_size);
			sys_unmap(made, made_room);
		}
		made = more;
		made_room += DIRECTORIES_STEP;
	}
	record = (struct made *)(made + made_size);
	record->mode = header->mode;
	record->mtime = header->mtime;
	record->before = (uint32_t)(made_size - made_last);
	join(record->path, strlen(path) + 1, path, NULL);
	made_last = made_size;
	made_size += size;
	return 0;
}

static void finish_directories(void)
{
	struct made *record;

	if (!made_size)
		return;
	do {
		record = (struct made *)(made + made_last);
		SYS3(fchmodat, AT_FDCWD, record->path, record->mode & 07777);
		set_time(record->path, record->mtime);
		made_last -= record->before;
	} while (record->before);
}

static int make_directory(const struct newc *header)
{
	struct stat status;
	long result = sys_mkdir(path, 0700);

	if (!result)
		return remember(header);
	if (result == -EEXIST && !SYS4(newfstatat, AT_FDCWD, path, &status, 0) &&
	    (status.st_mode & S_IFMT) == S_IFDIR)
		return 0; /* it keeps its mode and time */
	return fail("cannot make the directory ", result);
}

/* Out of the way with what is not a directory; whatever that says, making the new one says it again. */
static void replace(void)
{
	if (path[target_size])
		SYS3(unlinkat, AT_FDCWD, path, 0);
}

static int open_new(void)
{
	return SYS4(openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
}

static int make_file(const struct newc *header)
{
	uint32_t left = header->filesize;
	long result = 0;
	int fd;

	replace();
	fd = open_new();
	if (fd == -ETXTBSY) { /* a program that runs */
		SYS3(unlinkat, AT_FDCWD, path, 0);
		fd = open_new();
	}
	if (fd < 0)
		return fail("cannot write ", fd);
	while (left && result >= 0) {
		size_t part = available(left);

		if (!part) {
			sys_close(fd);
			return malformed("ends inside a file");
		}
		result = sys_write(fd, buffer + at, part);
		if (result > 0) {
			at += (size_t)result;
			left -= (uint32_t)result;
		}
	}
	if (result >= 0) {
		struct __kernel_timespec times[2] = { { header->mtime, 0 }, { header->mtime, 0 } };

		SYS2(fchmod, fd, header->mode & 07777);
		SYS4(utimensat, fd, NULL, times, 0);
	}
	sys_close(fd);
	return result < 0 ? fail("cannot write ", result) : 0;
}

static int make_link(const struct newc *header)
{
	static char text[PATH_MAX];
	long result;

	if (header->filesize >= sizeof(text))
		return malformed("has a symbolic link that is too long");
	if (!take(text, header->filesize))
		return malformed("ends inside a symbolic link");
	text[header->filesize] = 0;
	SYS3(unlinkat, AT_FDCWD, path, 0);
	result = sys_symlink(text, path);
	if (result)
		return fail("cannot make the symbolic link ", result);
	set_time(path, header->mtime);
	return 0;
}

/* The directories above the target. */
static void make_parents(void)
{
	for (size_t i = 1; i < target_size; i++)
		if (path[i] == '/') {
			path[i] = 0;
			sys_mkdir(path, 0755);
			path[i] = '/';
		}
}

static int entry(const struct newc *header, const char *name)
{
	int result;

	if (equal(name, "."))
		path[target_size] = 0;
	else if (!is_inside(name))
		return malformed("has a name that leads out of it");
	else if (target_size + 1 + strlen(name) >= PATH_MAX)
		return malformed("has a name that is too long here");
	else
		join(path + target_size, sizeof(path) - target_size, "/", name, NULL);
	switch (header->mode & S_IFMT) {
	case S_IFDIR:
		result = make_directory(header);
		return result || take(NULL, header->filesize) ? result : malformed("ends too early");
	case S_IFREG:
		return make_file(header);
	case S_IFLNK:
		return make_link(header);
	}
	return malformed("has something else than files, directories and symbolic links");
}

int files_unpack(const char *target)
{
	static char name[PATH_MAX];
	char text[NEWC_HEADER];
	int result = 0;

	target_size = strlen(target);
	while (target_size && target[target_size - 1] == '/')
		target_size--;
	if (target_size >= PATH_MAX)
		return malformed("is for a path that is too long");
	memcpy(path, target, target_size);
	make_parents();
	while (!result) {
		struct newc header = { 0 };

		if (!take(text, NEWC_HEADER))
			return malformed("ends before its end");
		if (!starts(text, NEWC_MAGIC) || !parse(text + strlen(NEWC_MAGIC), &header))
			return malformed("is not in the newc format");
		if (!header.namesize || header.namesize > sizeof(name))
			return malformed("has a name that is too long");
		if (!take(name, header.namesize) || !take(NULL, newc_padding(NEWC_HEADER + header.namesize)))
			return malformed("ends inside a name");
		name[header.namesize - 1] = 0;
		if (equal(name, NEWC_END))
			break;
		result = entry(&header, name);
		if (!result && !take(NULL, newc_padding(header.filesize)))
			return malformed("ends too early");
	}
	finish_directories();
	return result;
}
