/* Says hello: the smallest program in C. */
#include "arm64.h"

int main(void)
{
    return ok();
}
