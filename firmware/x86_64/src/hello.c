/* Says hello: the smallest program in C. */
#include "io.h"

int main(void)
{
    return ok();
}
