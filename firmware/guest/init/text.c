#include "text.h"

#include <stdarg.h>

/* Eight bytes anywhere: both architectures load and store them unaligned. */
typedef uint64_t word __attribute__((may_alias, aligned(1)));

void *memcpy(void *to, const void *from, size_t size)
{
	char *t = to;
	const char *f = from;

	for (; size >= sizeof(word); size -= sizeof(word), t += sizeof(word), f += sizeof(word))
		*(word *)t = *(const word *)f;
	while (size--)
		*t++ = *f++;
	return to;
}

void *memmove(void *to, const void *from, size_t size)
{
	char *t = to;
	const char *f = from;

	if (t + sizeof(word) <= f || t >= f + size)
		return memcpy(to, from, size);
	if (t < f)
		while (size--)
			*t++ = *f++;
	else
		while (size--)
			t[size] = f[size];
	return to;
}

void *memset(void *to, int value, size_t size)
{
	char *t = to;

	while (size--)
		*t++ = (char)value;
	return to;
}

size_t strlen(const char *text)
{
	size_t size = 0;

	while (text[size])
		size++;
	return size;
}

bool equal(const char *a, const char *b)
{
	while (*a && *a == *b)
		a++, b++;
	return *a == *b;
}

bool starts(const char *text, const char *prefix)
{
	while (*prefix && *text == *prefix)
		text++, prefix++;
	return !*prefix;
}

const char *last_slash(const char *path)
{
	const char *found = NULL;

	for (; *path; path++)
		if (*path == '/')
			found = path;
	return found;
}

const char *next_part(const char *path)
{
	while (*path && *path != '/')
		path++;
	return *path ? path + 1 : NULL;
}

static char *join_list(char *buffer, size_t room, va_list pieces)
{
	size_t used = 0;
	const char *piece;

	while ((piece = va_arg(pieces, const char *)))
		while (*piece && used + 1 < room)
			buffer[used++] = *piece++;
	buffer[used] = 0;
	return buffer;
}

char *join(char *buffer, size_t room, ...)
{
	va_list pieces;

	va_start(pieces, room);
	join_list(buffer, room, pieces);
	va_end(pieces);
	return buffer;
}

char *decimal(char *buffer, unsigned long value)
{
	char digits[24];
	int count = 0, used = 0;

	do
		digits[count++] = (char)('0' + value % 10);
	while (value /= 10);
	while (count)
		buffer[used++] = digits[--count];
	buffer[used] = 0;
	return buffer;
}

bool number(const char *text, int *value)
{
	*value = 0;
	if (!*text)
		return false;
	for (; *text; text++) {
		if (*text < '0' || *text > '9' || *value > 100000000)
			return false;
		*value = *value * 10 + (*text - '0');
	}
	return true;
}

long read_file(const char *path, char *buffer, size_t room)
{
	size_t used = 0;
	long got;
	int fd = sys_open(path, O_RDONLY);

	buffer[0] = 0;
	if (fd < 0)
		return fd;
	while (used + 1 < room && (got = sys_read(fd, buffer + used, room - 1 - used)) > 0)
		used += got;
	sys_close(fd);
	buffer[used] = 0;
	return (long)used;
}

void write_all(int fd, const char *data, size_t size)
{
	while (size) {
		long done = sys_write(fd, data, size);

		if (done <= 0)
			return;
		data += done;
		size -= done;
	}
}

long each_entry(const char *directory, bool (*visit)(const char *name, void *context), void *context)
{
	struct entry { /* struct linux_dirent64 of the kernel's include/linux/dirent.h */
		uint64_t inode;
		int64_t offset;
		uint16_t size;
		uint8_t type;
		char name[];
	};
	uint64_t entries[512];
	int fd = sys_open(directory, O_RDONLY | O_DIRECTORY);
	bool more = true;
	long got = 0;

	if (fd < 0)
		return fd;
	while (more && (got = SYS3(getdents64, fd, entries, sizeof(entries))) > 0)
		for (long at = 0; more && at < got;) {
			struct entry *entry = (struct entry *)((char *)entries + at);

			at += entry->size;
			more = visit(entry->name, context);
		}
	sys_close(fd);
	return got < 0 ? got : 0;
}

struct shown {
	bool (*visit)(const char *name, void *context);
	void *context;
};

static bool visit_shown(const char *name, void *context)
{
	struct shown *shown = context;

	return name[0] == '.' || shown->visit(name, shown->context);
}

void each_name(const char *directory, bool (*visit)(const char *name, void *context), void *context)
{
	struct shown shown = { visit, context };

	each_entry(directory, visit_shown, &shown);
}

int complain_to = -1;

void complain(const char *piece, ...)
{
	char pieces[400], line[480];
	va_list rest;
	int fd = complain_to;

	if (fd < 0)
		fd = sys_open("/dev/console", O_WRONLY | O_NOCTTY);
	va_start(rest, piece);
	join_list(pieces, sizeof(pieces), rest);
	va_end(rest);
	join(line, sizeof(line), "pyvmm-init: ", piece, pieces, "\n", NULL);
	write_all(fd < 0 ? 2 : fd, line, strlen(line));
	if (fd >= 0 && fd != complain_to)
		sys_close(fd);
}

static const char *meaning(long number)
{
	switch (number) {
	case EPERM:
		return "operation not permitted";
	case ENOENT:
		return "no such file or directory";
	case EIO:
		return "input/output error";
	case ENOEXEC:
		return "not in a format that can be run";
	case ENOMEM:
		return "not enough memory";
	case EACCES:
		return "permission denied";
	case EBUSY:
		return "busy";
	case EEXIST:
		return "it exists";
	case ENODEV:
		return "no such device";
	case ENOTDIR:
		return "not a directory";
	case EISDIR:
		return "it is a directory";
	case EINVAL:
		return "invalid argument";
	case ETXTBSY:
		return "the program is running";
	case EFBIG:
		return "too large";
	case ENOSPC:
		return "no space left";
	case EROFS:
		return "the file system is read-only";
	case ENAMETOOLONG:
		return "the name is too long";
	case ELOOP:
		return "too many symbolic links";
	}
	return "failed";
}

void complain_errno(const char *what, const char *name, long result)
{
	char digits[24];

	complain(what, name, ": ", meaning(-result), " (error ", decimal(digits, (unsigned long)-result), ")",
		 NULL);
}

static char *next(char **walk, char stop)
{
	char *piece = *walk;

	while (*piece == '\n' || *piece == ' ')
		piece++;
	if (!*piece)
		return NULL;
	*walk = piece;
	while (**walk && **walk != '\n' && **walk != stop)
		(*walk)++;
	if (**walk)
		*(*walk)++ = 0;
	return piece;
}

char *next_line(char **walk) { return next(walk, '\n'); }

char *next_word(char **walk) { return next(walk, ' '); }
