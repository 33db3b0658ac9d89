#pragma once
#include "ProgramBytes.h"

/// The object made from bpf/clients.bpf.c.
struct program_bytes program_clients(void);
