#include "ConnectProgram.h"

#pragma clang diagnostic ignored "-Wc23-extensions"
static const unsigned char object[] = {
#embed "connect.bpf.o"
};

struct program_bytes program_connect(void) { return (struct program_bytes){object, sizeof(object)}; }
