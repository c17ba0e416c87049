/*
 * One channel, one process: frames in, commands run, frames out (docs/internals/exec-protocol.md).
 * Everything is bounded: output is read from a command only while the host's credit and
 * the buffer towards the channel have room, and the host sends only what it has credit for.
 */
#include "server.h"

#include "channel.h"
#include "link.h"
#include "run.h"
#include "text.h"

enum {
	TTY_WINDOW = 2048, /* a UART's receive path may drop what nobody fetched in time */
	PORT_WINDOW = 262144,
	TTY_CHUNK = 4096,
	RECONNECT_MS = 1000,
	GONE_MS = 1000,
	STUCK_MS = 1000,
	ANSWER_MS = 1000,
	HELLO_SIZE = FRAME_OVERHEAD + 8,
};

static struct {
	int fd;
	int signals; /* signalfd: SIGCHLD, SIGIO */
	bool tty, connected;
	uint32_t window;
	uint32_t due;	  /* payload received for which the host gets credit */
	long look_at;	  /* when to look what half a frame is, if no more comes; or 0 */
	long greet_again; /* when to greet once more, if the host does not answer; or 0 */
} channel;

static struct pollfd polled[2 + 3 * RUNS_MAX]; /* signals, the channel, commands */

static void send_hello(uint32_t nonce)
{
	uint8_t payload[16] = { 0 };

	store16(payload, PROTOCOL_VERSION);
	store32(payload + 4, nonce);
	store32(payload + 8, channel.window);
	store32(payload + 12, INPUT_WINDOW);
	link_send(GUEST_HELLO, 0, payload, sizeof(payload));
}

static void new_session(void)
{
	runs_abort();
	link_drop_output();
	channel.due = 0;
	channel.greet_again = 0;
}

static void handle(const struct frame *frame)
{
	const uint8_t *payload = frame->payload;
	uint16_t length = frame->length;

	switch (frame->type) {
	case HOST_HELLO:
		if (length < 8)
			return;
		new_session();
		send_hello(load32(payload + 4));
		return;
	case HOST_PART:
	case HOST_RUN:
		channel.due += length;
		run_request(frame->run, payload, length, frame->type == HOST_RUN);
		return;
	case HOST_STDIN:
		channel.due += length;
		run_input(frame->run, payload, length);
		return;
	case HOST_EOF:
		run_eof(frame->run);
		return;
	case HOST_CREDIT:
		if (length >= 4)
			run_credit(frame->run, load32(payload));
		return;
	case HOST_RESIZE:
		if (length >= 4)
			run_resize(frame->run, load16(payload), load16(payload + 2));
		return;
	case HOST_SIGNAL:
		if (length >= 4)
			run_signal(frame->run, load32(payload));
		return;
	case HOST_POWER:
		if (length >= 4)
			sys_kill(1, load32(payload) ? SIGTERM : SIGUSR2);
		return;
	case HOST_PING:
		if (length >= 4)
			link_send32(GUEST_PONG, 0, load32(payload));
		return;
	}
}

/* Handle what was received, as long as there is room for what it is answered with. */
static void handle_frames(void)
{
	struct frame frame;

	while (link_has_reserve() && link_next(&frame))
		handle(&frame);
	if (channel.due >= channel.window / 4 && link_send32(GUEST_CREDIT, 0, channel.due))
		channel.due = 0;
}

/*
 * The host before this one may have died in the middle of a frame, whose rest this one's greeting
 * was taken for: all it says until it has its answer.
 */
static void find_greeting(void)
{
	struct frame frame;

	channel.look_at = 0;
	if (link_tail(HELLO_SIZE, HOST_HELLO, &frame))
		handle(&frame);
}

/*
 * The server before this one may have died in the middle of a frame, whose rest our greeting was
 * taken for: fill that frame up, whatever its length is, and greet again.
 */
static void greet_again(void)
{
	channel.greet_again = 0;
	link_fill(PAYLOAD_MAX + FRAME_OVERHEAD);
	send_hello(0);
}

static void reap(void)
{
	struct signalfd_siginfo info;
	int pid, status;

	while (sys_read(channel.signals, &info, sizeof(info)) > 0)
		;
	while ((pid = sys_wait(-1, &status, WNOHANG)) > 0)
		runs_exited(pid, status);
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

/* Drop what has been received: it was sent to the server or by the host before this one. */
static void drop_received(void)
{
	do
		link_drop_input();
	while (link_read(channel.fd) && link_partial());
	link_drop_input();
}

static void disconnect(void)
{
	new_session();
	channel.look_at = 0;
	drop_received();
	channel.connected = false;
}

/* Wait for the host; a virtio port says POLLHUP as long as nobody is there. */
static void connect(void)
{
	while (hung_up())
		wait_for_host(RECONNECT_MS);
	channel.connected = true;
	drop_received(); /* a host that has greeted already greets again at our HELLO */
	send_hello(0);
	channel.greet_again = sys_now() + ANSWER_MS;
	link_flush(channel.fd);
}

/* Wait until something can move. */
static void wait_for_work(void)
{
	short events = (link_in_room() ? POLLIN : 0) | (link_unsent() ? POLLOUT : 0);
	long wait = -1;
	unsigned count;

	if (link_was_short() && !link_unsent())
		wait = 0;
	else if (channel.look_at)
		wait = STUCK_MS;
	else if (channel.greet_again)
		wait = ANSWER_MS;
	polled[0] = (struct pollfd){ channel.signals, POLLIN, 0 };
	polled[1] = (struct pollfd){ channel.fd, events, 0 };
	count = runs_poll(polled + 2, &wait);
	sys_poll(polled, 2 + count, wait);
}

/* One turn: wait until something can move, then move it. False: the channel failed. */
static bool turn(void)
{
	short events;

	wait_for_work();
	events = polled[1].revents;
	if (polled[0].revents)
		reap();
	if (events & (POLLHUP | POLLERR | POLLNVAL) || (events & POLLIN && !link_read(channel.fd))) {
		if (channel.tty)
			return false;
		if (left())
			disconnect();
	}
	handle_frames();
	if (events & POLLIN)
		channel.look_at = link_partial() ? sys_now() + STUCK_MS : 0;
	if (channel.look_at && sys_now() >= channel.look_at)
		find_greeting();
	if (channel.greet_again && sys_now() >= channel.greet_again)
		greet_again();
	runs_move(channel.tty ? TTY_CHUNK : PAYLOAD_MAX);
	link_flush(channel.fd);
	return true;
}

void serve(const char *path)
{
	unsigned long mask = SIGNAL_BIT(SIGCHLD) | SIGNAL_BIT(SIGIO);

	frame_start();
	runs_start();
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
