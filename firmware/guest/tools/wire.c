/*
 * Network load inside a guest, for benchmarks; the peer is a program on the host.
 *
 *   wire in ADDRESS PORT MILLISECONDS     TCP: takes what the peer sends; prints bytes and microseconds
 *   wire out ADDRESS PORT MILLISECONDS    TCP: sends; prints bytes and microseconds
 *   wire echo ADDRESS PORT MILLISECONDS   UDP: datagrams of 64 bytes, each after the answer to the last;
 *                                         prints answers and microseconds
 *   wire flood ADDRESS PORT MILLISECONDS  UDP: datagrams of 64 bytes as fast as they go; prints how many
 *                                         went, and microseconds
 *
 * The ADDRESS "vsock" is the host's end of vsock, for in and out.
 */
#include <linux/in.h>
#include <linux/socket.h>

#include "../init/sys.h"
#include "../init/text.h"

enum { AF_INET = 2, AF_VSOCK = 40, SOCK_STREAM = 1, SOCK_DGRAM = 2, PIECE = 64 << 10, SMALL = 64, ANSWER_MS = 200 };

/* struct sockaddr_vm of linux/vm_sockets.h, which needs a C library's headers. */
struct vsock_address {
	uint16_t family, reserved;
	uint32_t port, cid;
	uint8_t zero[4];
};

static const unsigned HOST_CID = 2;

static char buffer[PIECE] __attribute__((aligned(4096)));

static _Noreturn void die(const char *what, const char *which)
{
	char line[256];

	join(line, sizeof(line), "wire: ", what, which, "\n", NULL);
	write_all(2, line, strlen(line));
	sys_exit(1);
}

static int argument(const char *text)
{
	int value;

	if (!number(text, &value) || value <= 0)
		die("not a number above 0: ", text);
	return value;
}

/* The address of four decimal numbers in *text*, in network order. */
static uint32_t address(const char *text)
{
	uint32_t result = 0;

	for (int shift = 0; shift < 32; shift += 8) {
		unsigned part = 0;

		while (*text >= '0' && *text <= '9')
			part = part * 10 + (*text++ - '0');
		result |= (part & 255) << shift;
		if (*text)
			text++;
	}
	return result;
}

static uint64_t microseconds(void)
{
	struct __kernel_timespec time = { 0, 0 };

	SYS2(clock_gettime, CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000ull + time.tv_nsec / 1000;
}

static int connected(int type, const char *host, int port)
{
	struct vsock_address beside = { AF_VSOCK, 0, port, HOST_CID, { 0 } };
	struct sockaddr_in peer = { 0 };
	int fd, vsock = equal(host, "vsock");

	peer.sin_family = AF_INET;
	peer.sin_port = (port & 255) << 8 | port >> 8;
	peer.sin_addr.s_addr = address(host);
	fd = SYS3(socket, vsock ? AF_VSOCK : AF_INET, type | O_CLOEXEC, 0);
	if (fd < 0 || (vsock ? SYS3(connect, fd, &beside, sizeof(beside)) :
			       SYS3(connect, fd, &peer, sizeof(peer))) < 0)
		die("cannot connect to ", host);
	return fd;
}

/* One transfer: what it counts, 0 for none this time, or a negative errno. */
static long transfer(int fd, const char *kind)
{
	struct pollfd wait = { fd, POLLIN, 0 };
	long result;

	if (equal(kind, "in"))
		return sys_read(fd, buffer, PIECE);
	if (equal(kind, "out"))
		return sys_write(fd, buffer, PIECE);
	result = sys_write(fd, buffer, SMALL);
	if (equal(kind, "flood"))
		return result < 0 ? 0 : 1;
	if (result < 0 || sys_poll(&wait, 1, ANSWER_MS) <= 0)
		return 0; /* lost: the next one */
	return sys_read(fd, buffer, PIECE) > 0;
}

__attribute__((used)) _Noreturn void start(long *stack)
{
	long argc = stack[0], count = 0, got;
	char **argv = (char **)(stack + 1), line[64], a[24], b[24];
	uint64_t begin, end, now;
	int fd;

	if (argc != 5)
		die("wire in|out|echo|flood ADDRESS PORT MILLISECONDS", "");
	fd = connected(equal(argv[1], "in") || equal(argv[1], "out") ? SOCK_STREAM : SOCK_DGRAM, argv[2],
		       argument(argv[3]));
	begin = microseconds();
	end = begin + argument(argv[4]) * 1000ull;
	do {
		got = transfer(fd, argv[1]);
		if (got < 0 || (!got && equal(argv[1], "in")))
			die("the connection ended", "");
		count += got;
		now = microseconds();
	} while (now < end);
	join(line, sizeof(line), decimal(a, count), " ", decimal(b, now - begin), "\n", NULL);
	write_all(1, line, strlen(line));
	sys_exit(0);
}

__asm__(ENTRY_ASM);
