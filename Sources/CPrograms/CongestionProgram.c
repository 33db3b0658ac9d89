#include "CongestionProgram.h"

#pragma clang diagnostic ignored "-Wc23-extensions"
static const unsigned char object[] = {
#embed "congestion.bpf.o"
};

struct program_bytes program_congestion(void) { return (struct program_bytes){object, sizeof(object)}; }
