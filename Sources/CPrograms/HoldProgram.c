#include "HoldProgram.h"

#pragma clang diagnostic ignored "-Wc23-extensions"
static const unsigned char object[] = {
#embed "hold.bpf.o"
};

struct program_bytes program_hold(void) { return (struct program_bytes){object, sizeof(object)}; }
