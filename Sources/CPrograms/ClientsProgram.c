#include "ClientsProgram.h"

#pragma clang diagnostic ignored "-Wc23-extensions"
static const unsigned char object[] = {
#embed "clients.bpf.o"
};

struct program_bytes program_clients(void) { return (struct program_bytes){object, sizeof(object)}; }
