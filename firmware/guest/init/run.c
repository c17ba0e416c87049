#include "run.h"

#include <linux/sysinfo.h>

#include "command.h"
#include "link.h"
#include "text.h"

enum { PTY_DRAIN_MS = 200, PTY_POLL_MS = 20, NO_LIMIT = -1 };

struct output {
	int fd; /* -1: closed */
	int left; /* after the exit: bytes the command itself wrote, or NO_LIMIT */
	uint8_t type;
};

struct run {
	uint8_t number;
	struct command command; /* its pid is 0 until the request is complete */
	struct output output[2];
	uint32_t credit;   /* bytes of output that the host takes now */
	uint32_t input_due; /* bytes of input taken, for which the host gets credit */
	uint32_t head, tail; /* bytes ever put into and taken from *input*, modulo 2^32 */
	bool writable; /* standard input may take more; false: poll tells */
	bool eof;
	struct pollfd *polled; /* output, error, input in the last poll; NULL: it began after that */
	long drain_until; /* a pty passes on output a moment after its writer exited */
	uint8_t *request;
	size_t requested;
	uint8_t input[INPUT_WINDOW];
};

static struct run *runs[RUNS_MAX + 1];	/* by number */
static uint8_t active[RUNS_MAX];	/* their numbers */
static unsigned active_count, turn;
static const char *refused[RUNS_MAX + 1]; /* why not, until the rest of the request has come */
static unsigned limit;
static char limit_text[96];

void runs_start(void)
{
	struct sysinfo info;
	char count[24], size[24];
	unsigned long mib;

	SYS1(sysinfo, &info);
	mib = info.totalram * info.mem_unit >> 20;
	limit = mib > RUNS_MAX ? RUNS_MAX : mib < RUNS_MIN ? RUNS_MIN : (unsigned)mib;
	join(limit_text, sizeof(limit_text), "a guest with ", decimal(size, mib), " MiB runs at most ",
	     decimal(count, limit), " commands at a time; wait for one to end", NULL);
}

static struct run *find(uint8_t number)
{
	struct run *run = runs[number];

	return run && run->command.pid > 0 ? run : NULL;
}

static void drop_request(struct run *run)
{
	if (run->request)
		sys_unmap(run->request, REQUEST_MAX + 1);
	run->request = NULL;
}

static struct run *add(uint8_t number)
{
	struct run *run;

	if (active_count >= limit) {
		refused[number] = limit_text;
		return NULL;
	}
	run = sys_map(sizeof(*run));
	if (run && !(run->request = sys_map(REQUEST_MAX + 1))) {
		sys_unmap(run, sizeof(*run));
		run = NULL;
	}
	if (!run) {
		refused[number] = "the guest has no memory for another command";
		return NULL;
	}
	run->number = number;
	run->command.in = run->output[0].fd = run->output[1].fd = -1;
	runs[number] = run;
	active[active_count++] = number;
	return run;
}

/* Forget *run*; its process is gone, or another one's business. */
static void drop(struct run *run)
{
	unsigned at = 0;

	if (run->command.in != run->output[0].fd)
		command_close(&run->command.in);
	command_close(&run->output[0].fd);
	command_close(&run->output[1].fd);
	while (active[at] != run->number)
		at++;
	active[at] = active[--active_count];
	runs[run->number] = NULL;
	drop_request(run);
	sys_unmap(run, sizeof(*run));
}

static bool send_exit(uint8_t number, uint32_t status, uint32_t signal)
{
	uint8_t payload[8];

	store32(payload, status);
	store32(payload + 4, signal);
	return link_send(GUEST_EXIT, number, payload, sizeof(payload));
}

static void refuse(uint8_t number, const char *reason)
{
	char line[160];

	join(line, sizeof(line), "pyvmm-init: ", reason, "\n", NULL);
	link_send(GUEST_STDERR, number, line, (uint16_t)strlen(line));
	send_exit(number, EXIT_REFUSED, 0);
}

static const char *begin(struct run *run)
{
	struct command *command = &run->command;
	const char *wrong;

	if (run->requested > REQUEST_MAX)
		return "the request is longer than 65536 bytes";
	wrong = command_start(command, run->request, run->requested);
	if (wrong)
		return wrong;
	drop_request(run);
	run->credit = command->window;
	run->output[0] = (struct output){ command->out, NO_LIMIT, GUEST_STDOUT };
	run->output[1] = (struct output){ command->err, NO_LIMIT, GUEST_STDERR };
	return NULL;
}

void run_request(uint8_t number, const uint8_t *data, size_t size, bool last)
{
	struct run *run = runs[number];
	const char *wrong;

	if (!number || (run && run->command.pid))
		return; /* a number in use: the host is wrong */
	if (!run && !refused[number])
		run = add(number);
	if (run) {
		if (run->requested + size <= REQUEST_MAX)
			memcpy(run->request + run->requested, data, size);
		run->requested += size;
	}
	if (!last)
		return;
	wrong = run ? begin(run) : refused[number];
	if (!wrong)
		return;
	refuse(number, wrong);
	refused[number] = NULL;
	if (run)
		drop(run);
}

static void take_input(struct run *run, uint32_t size)
{
	run->tail += size;
	run->input_due += size;
}

static void drop_input(struct run *run) { take_input(run, run->head - run->tail); }

void run_input(uint8_t number, const uint8_t *data, size_t size)
{
	struct run *run = find(number);

	if (!run || run->head - run->tail + size > INPUT_WINDOW)
		return; /* of a command that has ended; or beyond the credit: lost */
	if (run->command.exited || run->command.in < 0 || run->eof) {
		run->input_due += size;
		return;
	}
	run->writable |= run->head == run->tail;
	for (size_t at = 0, part; at < size; at += part, run->head += part) {
		size_t place = run->head % INPUT_WINDOW;

		part = size - at > INPUT_WINDOW - place ? INPUT_WINDOW - place : size - at;
		memcpy(run->input + place, data + at, part);
	}
}

void run_eof(uint8_t number)
{
	struct run *run = find(number);

	if (run)
		run->eof = true;
}

void run_credit(uint8_t number, uint32_t bytes)
{
	struct run *run = find(number);

	if (run)
		run->credit += bytes;
}

void run_resize(uint8_t number, uint16_t rows, uint16_t cols)
{
	struct run *run = find(number);

	if (run && run->command.pty && run->output[0].fd >= 0)
		command_resize(run->output[0].fd, rows, cols);
}

void run_signal(uint8_t number, uint32_t signal)
{
	struct run *run = find(number);

	if (!run || run->command.exited || signal > 64)
		return;
	/* A child that has just been forked has no process group of its own yet. */
	if (sys_kill(-run->command.pid, (int)signal) == -ESRCH)
		sys_kill(run->command.pid, (int)signal);
}

/* Pass standard input on, and the credit for what the command took. */
static void feed(struct run *run)
{
	struct command *command = &run->command;

	while (run->writable && run->tail != run->head) {
		size_t place = run->tail % INPUT_WINDOW, size = run->head - run->tail;
		long done;

		size = size > INPUT_WINDOW - place ? INPUT_WINDOW - place : size;
		done = sys_write(command->in, run->input + place, size);
		if (done == -EAGAIN) {
			run->writable = false;
			break;
		}
		if (done <= 0) { /* nobody reads any more */
			drop_input(run);
			if (!command->pty)
				command_close(&command->in);
			break;
		}
		take_input(run, (uint32_t)done);
	}
	if (run->tail == run->head && run->eof && command->in >= 0) {
		run->eof = false;
		if (command->pty)
			sys_write(command->in, "\004", 1);
		else
			command_close(&command->in);
	}
	if (run->input_due && (run->input_due >= INPUT_WINDOW / 4 || run->tail == run->head) &&
	    link_send32(GUEST_CREDIT, run->number, run->input_due))
		run->input_due = 0;
}

/* Pass on one chunk; true when there may be more at once. */
static bool pass(struct run *run, struct output *output, size_t chunk)
{
	struct command *command = &run->command;
	size_t room = link_room();
	long got = 0;

	if (output->fd < 0)
		return false;
	if (output->left) {
		room = room > chunk ? chunk : room;
		room = room > run->credit ? run->credit : room;
		if (output->left > 0 && room > (size_t)output->left)
			room = (size_t)output->left;
		if (!room)
			return false;
		got = sys_read(output->fd, link_payload(), room);
	}
	if (got > 0) {
		link_commit(output->type, run->number, (uint16_t)got);
		run->credit -= (uint32_t)got;
		if (output->left > 0)
			output->left -= (int)got;
		run->drain_until = sys_now() + PTY_DRAIN_MS;
		return true;
	}
	/* A pty says EIO when all is read. */
	if (got == -EAGAIN && !(command->exited && (!command->pty || sys_now() > run->drain_until)))
		return false;
	if (output->fd == command->in)
		command->in = -1;
	command_close(&output->fd);
	return false;
}

/* The command has exited: the rest of its output, then its status. */
static void finish(struct run *run, size_t chunk)
{
	int status = run->command.wait_status, signal = status & 0x7f;

	if (run->command.in != run->output[0].fd)
		command_close(&run->command.in);
	while (pass(run, &run->output[0], chunk) | pass(run, &run->output[1], chunk))
		;
	if (run->output[0].fd >= 0 || run->output[1].fd >= 0)
		return;
	if (send_exit(run->number, signal ? 128 + signal : status >> 8 & 0xff, signal))
		drop(run);
}

unsigned runs_poll(struct pollfd *fds, long *wait)
{
	unsigned count = 0;
	bool room = link_room();

	for (unsigned i = 0; i < active_count; i++) {
		struct run *run = find(active[i]);
		bool output, input;

		if (!run)
			continue;
		output = room && run->credit;
		input = run->tail != run->head && !run->writable;
		if (run->command.exited && run->command.pty && *wait)
			*wait = PTY_POLL_MS;
		run->polled = fds + count;
		fds[count++] = (struct pollfd){ output ? run->output[0].fd : -1, POLLIN, 0 };
		fds[count++] = (struct pollfd){ output ? run->output[1].fd : -1, POLLIN, 0 };
		fds[count++] = (struct pollfd){ input ? run->command.in : -1, POLLOUT, 0 };
	}
	return count;
}

static void move(struct run *run, size_t chunk)
{
	struct pollfd *polled = run->polled;

	if (polled && polled[2].revents)
		run->writable = true;
	if (run->writable || run->eof || run->input_due)
		feed(run);
	if (run->command.exited) {
		finish(run, chunk);
		return;
	}
	for (int i = 0; polled && i < 2; i++)
		if (polled[i].revents)
			pass(run, &run->output[i], chunk);
}

/* Each command passes on one chunk; the next turn begins with the first one for which there was no room. */
void runs_move(size_t chunk)
{
	uint8_t order[RUNS_MAX];
	unsigned count = active_count, first = count ? turn % count : 0;
	bool stopped = false;

	turn = first + 1;
	memcpy(order, active, count);
	for (unsigned i = 0; i < count; i++) {
		unsigned at = (first + i) % count;
		struct run *run = find(order[at]);

		if (!run)
			continue;
		if (!stopped && !link_room()) {
			stopped = true;
			turn = at;
		}
		move(run, chunk);
	}
}

void runs_exited(int pid, int status)
{
	for (unsigned i = 0; i < active_count; i++) {
		struct run *run = runs[active[i]];

		if (run->command.pid != pid)
			continue;
		run->command.exited = true;
		run->command.wait_status = status;
		run->drain_until = sys_now() + PTY_DRAIN_MS;
		for (int out = 0; out < 2 && !run->command.pty; out++) {
			run->output[out].left = 0;
			sys_ioctl(run->output[out].fd, FIONREAD, (long)&run->output[out].left);
		}
	}
}

void runs_abort(void)
{
	int sessions[RUNS_MAX];
	unsigned count = 0;

	while (active_count) {
		struct run *run = runs[active[active_count - 1]];

		if (run->command.pid)
			sessions[count++] = run->command.pid;
		drop(run);
	}
	memset(refused, 0, sizeof(refused));
	if (count)
		sessions_end(sessions, count);
}
