/*
 * One channel, one process: frames in, commands run, frames out (docs/internals/exec-protocol.md).
 * Everything is bounded: output is read from the command only while the host's credit and
 * the buffer towards the channel have room, and the host sends only what it has credit for.
 */
#include "server.h"

#include "channel.h"
#include "command.h"
#include "frame.h"
#include "text.h"

enum {
	TTY_WINDOW = 2048, /* a UART's receive path may drop what nobody fetched in time */
	PORT_WINDOW = 65536,
	OUT_MAX = 65536,
	OUT_RESERVE = 512, /* kept for control frames: replies to one read of the channel */
	TTY_CHUNK = 4096,
	PTY_DRAIN_MS = 200,
	PTY_POLL_MS = 20,
	RECONNECT_MS = 1000,
	GONE_MS = 1000,
	STUCK_MS = 1000,
	HELLO_SIZE = FRAME_OVERHEAD + 8,
};

static struct {
	int fd;
	int signals; /* signalfd: SIGCHLD, SIGIO */
	bool tty, connected;
	uint32_t window;
} channel;

static struct {
	uint8_t data[OUT_MAX];
	size_t start, end;
} out;

static struct {
	uint8_t data[PAYLOAD_MAX + FRAME_OVERHEAD];
	size_t used;
	long look_at; /* when to look what half a frame is, if no more comes; or 0 */
} in;

static struct {
	uint8_t data[PORT_WINDOW];
	size_t start, end;
	bool eof;
} input; /* standard input the command has not taken yet */

static struct {
	uint8_t data[REQUEST_MAX + 1];
	size_t used;
	bool overflow;
} request;

static struct command command;
static uint8_t run;
static uint32_t output_credit, credit_due;
static long drain_until;

static size_t out_room(void)
{
	if (out.start) {
		memmove(out.data, out.data + out.start, out.end - out.start);
		out.end -= out.start;
		out.start = 0;
	}
	return OUT_MAX - out.end;
}

static void send_frame(uint8_t type, uint8_t number, const void *payload, uint16_t size)
{
	if (out_room() >= (size_t)FRAME_OVERHEAD + size)
		out.end += frame_encode(out.data + out.end, type, number, payload, size);
}

static void send_hello(uint32_t nonce)
{
	uint8_t payload[12] = { 0 };

	store16(payload, PROTOCOL_VERSION);
	store32(payload + 4, nonce);
	store32(payload + 8, channel.window);
	send_frame(GUEST_HELLO, 0, payload, sizeof(payload));
}

static void send_exit(uint32_t status, uint32_t signal)
{
	uint8_t payload[8];

	store32(payload, status);
	store32(payload + 4, signal);
	send_frame(GUEST_EXIT, run, payload, sizeof(payload));
}

static void return_credit(bool all)
{
	uint8_t payload[4];

	if (!credit_due || (!all && credit_due < channel.window / 4))
		return;
	store32(payload, credit_due);
	send_frame(GUEST_CREDIT, 0, payload, sizeof(payload));
	credit_due = 0;
}

static void drop_input(void)
{
	credit_due += input.end - input.start;
	input.start = input.end = 0;
	input.eof = false;
}

static void new_session(void)
{
	command_abort(&command);
	drop_input();
	request.used = 0;
	request.overflow = false;
	credit_due = 0;
	out.start = out.end = 0;
}

static void start_run(uint8_t number)
{
	const char *wrong = "another command is still running";

	if (!command.pid) {
		drop_input();
		wrong = request.overflow ? "the request is longer than 65536 bytes"
					 : command_start(&command, request.data, request.used);
		if (!wrong) {
			run = number;
			output_credit = command.window;
		}
	}
	request.used = 0;
	request.overflow = false;
	if (wrong) {
		char line[160];
		uint8_t payload[8] = { EXIT_REFUSED };

		join(line, sizeof(line), "pyvmm-init: ", wrong, "\n", NULL);
		send_frame(GUEST_STDERR, number, line, (uint16_t)strlen(line));
		send_frame(GUEST_EXIT, number, payload, sizeof(payload));
	}
}

static void request_part(const struct frame *frame)
{
	credit_due += frame->length;
	if (request.used + frame->length > REQUEST_MAX) {
		request.overflow = true;
		return;
	}
	memcpy(request.data + request.used, frame->payload, frame->length);
	request.used += frame->length;
}

static void input_part(const struct frame *frame)
{
	if (!command.pid || command.exited || command.in < 0 || frame->run != run || input.eof) {
		credit_due += frame->length;
		return;
	}
	if (input.start && input.end + frame->length > PORT_WINDOW) {
		memmove(input.data, input.data + input.start, input.end - input.start);
		input.end -= input.start;
		input.start = 0;
	}
	if (input.end + frame->length > PORT_WINDOW)
		return; /* beyond the credit: lost */
	memcpy(input.data + input.end, frame->payload, frame->length);
	input.end += frame->length;
}

static void handle(const struct frame *frame)
{
	bool ours = command.pid && frame->run == run;
	const uint8_t *payload = frame->payload;

	switch (frame->type) {
	case HOST_HELLO:
		if (frame->length < 8)
			return;
		new_session();
		send_hello(load32(payload + 4));
		return;
	case HOST_PART:
		request_part(frame);
		return;
	case HOST_RUN:
		request_part(frame);
		start_run(frame->run);
		return;
	case HOST_STDIN:
		input_part(frame);
		return;
	case HOST_EOF:
		if (ours)
			input.eof = true;
		return;
	case HOST_CREDIT:
		if (ours && frame->length >= 4)
			output_credit += load32(payload);
		return;
	case HOST_RESIZE:
		if (ours && frame->length >= 4)
			command_resize(&command, load16(payload), load16(payload + 2));
		return;
	case HOST_SIGNAL:
		if (ours && !command.exited && frame->length >= 4 && load32(payload) <= 64)
			sys_kill(-command.pid, (int)load32(payload));
		return;
	case HOST_POWER:
		if (frame->length >= 4)
			sys_kill(1, load32(payload) ? SIGTERM : SIGUSR2);
		return;
	}
}

/* Take what the channel has. False when the host's end is gone. */
static bool receive(void)
{
	long got = sys_read(channel.fd, in.data + in.used, sizeof(in.data) - in.used);
	size_t at = 0, used;
	struct frame frame;
	bool complete;

	if (got <= 0)
		return got == -EAGAIN || got == -EINTR;
	in.used += got;
	while (at < in.used && (used = frame_scan(in.data + at, in.used - at, &frame, &complete))) {
		if (complete)
			handle(&frame);
		at += used;
	}
	memmove(in.data, in.data + at, in.used - at);
	in.used -= at;
	in.look_at = in.used ? sys_now() + STUCK_MS : 0;
	return true;
}

/*
 * The host before this one may have died in the middle of a frame, whose rest this one's greeting
 * was taken for: all it says until it has its answer.
 */
static void find_greeting(void)
{
	struct frame frame;
	bool complete;

	in.look_at = 0;
	if (in.used < HELLO_SIZE)
		return;
	frame_scan(in.data + in.used - HELLO_SIZE, HELLO_SIZE, &frame, &complete);
	if (!complete || frame.type != HOST_HELLO)
		return;
	in.used = 0;
	handle(&frame);
}

static void flush(void)
{
	while (out.start < out.end) {
		long done = sys_write(channel.fd, out.data + out.start, out.end - out.start);

		if (done <= 0)
			return;
		out.start += done;
	}
}

static void feed_command(void)
{
	while (input.start < input.end) {
		long done = sys_write(command.in, input.data + input.start, input.end - input.start);

		if (done == -EAGAIN)
			break;
		if (done <= 0) { /* nobody reads any more */
			drop_input();
			if (!command.pty)
				command_close(&command.in);
			break;
		}
		input.start += done;
		credit_due += done;
	}
	if (input.start < input.end || !input.eof || command.in < 0)
		return;
	input.eof = false;
	if (command.pty)
		sys_write(command.in, "\004", 1);
	else
		command_close(&command.in);
}

static size_t output_room(void)
{
	size_t room = out_room(), most = channel.tty ? TTY_CHUNK : PAYLOAD_MAX;

	room = room < OUT_RESERVE + FRAME_OVERHEAD ? 0 : room - OUT_RESERVE - FRAME_OVERHEAD;
	room = room > most ? most : room;
	return room > output_credit ? output_credit : room;
}

/* Pass on one chunk of the command's output; true when there may be more at once. */
static bool pass_output(int *fd, uint8_t type)
{
	static uint8_t chunk[PAYLOAD_MAX];
	size_t room = output_room();
	long got;

	if (*fd < 0 || !room)
		return false;
	got = sys_read(*fd, chunk, room);
	if (got > 0) {
		send_frame(type, run, chunk, (uint16_t)got);
		output_credit -= got;
		drain_until = sys_now() + PTY_DRAIN_MS;
		return true;
	}
	/* A pty says EIO when all is read; what lies in a pipe at exit can be read at once. */
	if (got == -EAGAIN && !(command.exited && (!command.pty || sys_now() > drain_until)))
		return false;
	if (*fd == command.in)
		command.in = -1;
	command_close(fd);
	return false;
}

static void finish(void)
{
	int status = command.wait_status;

	if (command.in != command.out)
		command_close(&command.in);
	while (pass_output(&command.out, GUEST_STDOUT) | pass_output(&command.err, GUEST_STDERR))
		flush();
	if (command.out >= 0 || command.err >= 0)
		return;
	if (status & 0x7f)
		send_exit(128 + (status & 0x7f), status & 0x7f);
	else
		send_exit(status >> 8 & 0xff, 0);
	command.pid = 0;
	drop_input();
}

static void reap(void)
{
	struct signalfd_siginfo info;
	int pid, status;

	while (sys_read(channel.signals, &info, sizeof(info)) > 0)
		;
	while ((pid = sys_wait(-1, &status, WNOHANG)) > 0)
		if (pid == command.pid) {
			command.exited = true;
			command.wait_status = status;
			drain_until = sys_now() + PTY_DRAIN_MS;
		}
}

static bool hung_up(void)
{
	struct pollfd probe = { channel.fd, 0, 0 };

	sys_poll(&probe, 1, 0);
	return probe.revents & POLLHUP;
}

/* Up to *ms*, until a host may have come: SIGIO says so. */
static void wait_for_host(long ms)
{
	struct pollfd signals = { channel.signals, POLLIN, 0 };

	sys_poll(&signals, 1, ms);
	reap();
}

/*
 * Whether the host is gone for good. A virtio port is told of hang-ups on a queue of its own, so
 * that of the host before this one may come after this one's first frames, its arrival right behind.
 * That host greets, and so ends what the other left.
 */
static bool left(void)
{
	long deadline = sys_now() + GONE_MS;

	while (hung_up()) {
		long rest = deadline - sys_now();

		if (rest <= 0)
			return true;
		wait_for_host(rest);
	}
	return false;
}

static void disconnect(void)
{
	new_session();
	in.used = 0;
	in.look_at = 0;
	while (sys_read(channel.fd, in.data, sizeof(in.data)) > 0)
		;
	channel.connected = false;
}

/* Wait for the host; a virtio port says POLLHUP as long as nobody is there. */
static void connect(void)
{
	while (hung_up())
		wait_for_host(RECONNECT_MS);
	channel.connected = true;
	send_hello(0);
	flush();
}

/* One turn: wait until something can move, then move it. False: the channel failed. */
static bool turn(void)
{
	struct pollfd fds[5];
	bool output = output_room() > 0;
	long wait = -1;

	for (int i = 0; i < 5; i++)
		fds[i] = (struct pollfd){ -1, POLLIN, 0 };
	fds[0].fd = channel.signals;
	if (out_room() >= OUT_RESERVE)
		fds[1].fd = channel.fd;
	if (out.start < out.end)
		fds[1] = (struct pollfd){ channel.fd, fds[1].fd < 0 ? POLLOUT : POLLIN | POLLOUT, 0 };
	if (command.pid && output) {
		fds[2].fd = command.out;
		fds[3].fd = command.err;
	}
	if (command.pid && input.start < input.end)
		fds[4] = (struct pollfd){ command.in, POLLOUT, 0 };
	if (command.pid && command.exited && command.pty)
		wait = PTY_POLL_MS;
	else if (in.look_at)
		wait = STUCK_MS;
	sys_poll(fds, 5, wait);
	if (fds[0].revents)
		reap();
	if (fds[1].revents & (POLLHUP | POLLERR | POLLNVAL) ||
	    (fds[1].revents & POLLIN && !receive())) {
		if (channel.tty)
			return false;
		if (left())
			disconnect();
	}
	if (in.look_at && sys_now() >= in.look_at)
		find_greeting();
	if (command.pid)
		feed_command();
	if (command.pid && command.exited)
		finish();
	else if (command.pid) {
		if (fds[2].revents)
			pass_output(&command.out, GUEST_STDOUT);
		if (fds[3].revents)
			pass_output(&command.err, GUEST_STDERR);
	}
	return_credit(input.start == input.end);
	flush();
	return true;
}

void serve(const char *path)
{
	unsigned long mask = SIGNAL_BIT(SIGCHLD) | SIGNAL_BIT(SIGIO);

	command = (struct command){ .in = -1, .out = -1, .err = -1 };
	frame_start();
	sys_sigset(SIGPIPE, SIG_IGN);
	sys_sigmask(SIG_SETMASK, mask);
	channel.signals = sys_signalfd(mask);
	channel.fd = channel_open(path, &channel.tty);
	channel.window = channel.tty ? TTY_WINDOW : PORT_WINDOW;
	do {
		if (!channel.connected)
			connect();
	} while (turn());
	new_session();
	complain("lost the channel ", path, NULL);
}
