/* The commands of one link: up to RUNS_MAX at a time, each with buffers of its own while it exists. */
#pragma once

#include "sys.h"

enum {
	RUNS_MAX = 255,
	RUNS_MIN = 16,
	INPUT_WINDOW = 262144, /* bytes of standard input that the host may send before it gets credit */
};

void runs_start(void); /* how many there may be is derived from the memory of the guest */

/* Frames of the host for command *number*. */
void run_request(uint8_t number, const uint8_t *data, size_t size, bool last);
void run_input(uint8_t number, const uint8_t *data, size_t size);
void run_eof(uint8_t number);
void run_credit(uint8_t number, uint32_t bytes);
void run_resize(uint8_t number, uint16_t rows, uint16_t cols);
void run_signal(uint8_t number, uint32_t signal);

/*
 * One turn of the caller's loop: how many descriptors to poll, of RUNS_MAX * 3, and for how long at
 * most (-1: for ever); then move what can be moved. *chunk*: bytes of output in a frame, at most.
 */
unsigned runs_poll(struct pollfd *fds, long *wait);
void runs_move(size_t chunk);
/* A child was reaped. */
void runs_exited(int pid, int status);
/* End all commands, with their sessions, and forget them. */
void runs_abort(void);
