/*
 * Disk work inside a guest, for tests and benchmarks.
 *
 *   disk files DIRECTORY COUNT     make files 0, 1, ... and bring each to the disk; a line of its number
 *                                  follows once fsync has returned
 *   disk read|write DEVICE BLOCK JOBS MILLISECONDS random|sequential
 *                                  transfers of BLOCK bytes past the page cache by JOBS processes;
 *                                  prints transfers and microseconds
 *   disk discard|zero DEVICE       the whole device
 */
#include "../init/sys.h"
#include "../init/text.h"

#define PAGE 4096
#define MAX_FILE 20000
#define MAX_BLOCK (1 << 20)
#define MAX_JOBS 64

static char buffer[MAX_BLOCK] __attribute__((aligned(PAGE)));

/* One line on standard error, and the end. */
static _Noreturn void die(int status, const char *what, const char *name, const char *why)
{
	char line[512];

	join(line, sizeof(line), "disk: ", what, name, why, "\n", NULL);
	write_all(2, line, strlen(line));
	sys_exit(status);
}

static _Noreturn void fail(const char *what, const char *name, long result)
{
	char why[32] = ": error ";

	decimal(why + strlen(why), -result);
	die(1, what, name, why);
}

static int argument(const char *text)
{
	int value;

	if (!number(text, &value) || value <= 0)
		die(2, "not a number above 0: ", text, "");
	return value;
}

static int open_device(const char *name, int flags)
{
	int fd = sys_open(name, flags);

	if (fd < 0)
		fail("cannot open ", name, fd);
	return fd;
}

static uint64_t device_size(int fd)
{
	uint64_t size = 0;

	long result = sys_ioctl(fd, BLKGETSIZE64, (long)&size);

	if (result < 0)
		fail("no size of ", "the device", result);
	return size;
}

/* What file *index* holds; the test on the host computes the same. */
static int fill(int index)
{
	int size = 1 + (long)index * 7919 % MAX_FILE;

	for (int i = 0; i < size; i++)
		buffer[i] = index * 31 + i * 7 + (i >> 8);
	return size;
}

static void files(const char *directory, int count)
{
	char path[256], text[24];
	long result = sys_mkdir(directory, 0755);

	if (result < 0 && result != -EEXIST)
		fail("cannot make ", directory, result);
	for (int index = 0; index < count; index++) {
		join(path, sizeof(path), directory, "/", decimal(text, index), NULL);
		int size = fill(index), fd = open_device(path, O_WRONLY | O_CREAT | O_TRUNC);

		result = sys_write(fd, buffer, size);
		if (result != size || (result = SYS1(fsync, fd)) < 0)
			fail("cannot write ", path, result);
		sys_close(fd);
		join(path, sizeof(path), text, "\n", NULL);
		write_all(1, path, strlen(path));
	}
}

static long microseconds(void)
{
	struct __kernel_timespec time = { 0, 0 };

	SYS2(clock_gettime, CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000 + time.tv_nsec / 1000;
}

/* Transfers until *end*; how many. Jobs begin at different places. */
static long transfer(int fd, bool write, long block, bool random, int job, int jobs, long end)
{
	uint64_t blocks = device_size(fd) / block, at = blocks / jobs * job, done = 0;
	uint64_t state = 88172645463325252ULL + job;

	do {
		long offset = at % blocks * block;
		long result = write ? SYS4(pwrite64, fd, buffer, block, offset) :
				      SYS4(pread64, fd, buffer, block, offset);

		if (result != block)
			fail("transfer failed on ", "the device", result);
		done++;
		if (random) { /* xorshift64 */
			state ^= state << 13;
			state ^= state >> 7;
			state ^= state << 17;
			at = state;
		} else {
			at++;
		}
	} while (microseconds() < end);
	return done;
}

static void measure(bool write, char **words)
{
	int block = argument(words[1]), jobs = argument(words[2]);
	long limit = argument(words[3]) * 1000L, total = 0, begin, part;
	bool random = equal(words[4], "random");
	char line[64], number_text[24], time_text[24];
	int pipe[2], status, failed = 0;

	if (block > MAX_BLOCK || jobs > MAX_JOBS)
		die(2, "at most 1 MiB a transfer, and 64 jobs", "", "");
	int fd = open_device(words[0], O_DIRECT | (write ? O_RDWR : O_RDONLY));

	SYS2(pipe2, pipe, 0);
	begin = microseconds();
	for (int job = 0; job < jobs; job++) {
		if (sys_fork() == 0) {
			part = transfer(fd, write, block, random, job, jobs, begin + limit);
			sys_write(pipe[1], &part, sizeof(part));
			sys_exit(0);
		}
	}
	for (int job = 0; job < jobs; job++) {
		sys_wait(-1, &status, 0);
		failed |= status;
	}
	limit = microseconds() - begin;
	for (int job = 0; job < jobs && !failed; job++)
		if (sys_read(pipe[0], &part, sizeof(part)) == sizeof(part))
			total += part;
	if (failed)
		sys_exit(1);
	join(line, sizeof(line), decimal(number_text, total), " ", decimal(time_text, limit), "\n", NULL);
	write_all(1, line, strlen(line));
}

static void whole(unsigned long request, const char *name)
{
	int fd = open_device(name, O_RDWR);
	uint64_t range[2] = { 0, device_size(fd) };
	long result = sys_ioctl(fd, request, (long)range);

	if (result < 0)
		fail("the request was refused by ", name, result);
}

__attribute__((used)) _Noreturn void start(long *stack)
{
	int count = (int)stack[0];
	char **words = (char **)(stack + 1);

	if (count == 4 && equal(words[1], "files"))
		files(words[2], argument(words[3]));
	else if (count == 7 && (equal(words[1], "read") || equal(words[1], "write")))
		measure(equal(words[1], "write"), words + 2);
	else if (count == 3 && equal(words[1], "discard"))
		whole(BLKDISCARD, words[2]);
	else if (count == 3 && equal(words[1], "zero"))
		whole(BLKZEROOUT, words[2]);
	else
		die(2, "usage: disk files|read|write|discard|zero ...", "", "");
	sys_exit(0);
}

__asm__(ENTRY_ASM);
