/* Calls that a program cannot do without. */
#pragma once

#include "../init/text.h"

/* *result* of the call that does *what*; when it failed, a line on standard error and status 1. */
static long must(const char *what, long result)
{
	if (result < 0) {
		complain_to = 2;
		complain_errno("cannot ", what, result);
		sys_exit(1);
	}
	return result;
}
