/* The guest's exec server as an ordinary program, for tests without a guest: argv[1] is its channel. */
#include "command.h"
#include "server.h"
#include "sys.h"

__attribute__((used)) _Noreturn void start(long *stack)
{
	char **arguments = (char **)(stack + 1);

	command_environment((char **)(stack + 1 + stack[0] + 1));
	serve(arguments[1]);
	sys_exit(1);
}

__asm__(ENTRY_ASM);
