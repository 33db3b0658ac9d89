#include "CaptureProgram.h"

#pragma clang diagnostic ignored "-Wc23-extensions"
static const unsigned char object[] = {
#embed "capture.bpf.o"
};

struct program_bytes program_capture(void) { return (struct program_bytes){object, sizeof(object)}; }
