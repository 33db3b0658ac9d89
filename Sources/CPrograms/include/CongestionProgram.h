#pragma once
#include "ProgramBytes.h"

/// The object made from bpf/congestion.bpf.c.
struct program_bytes program_congestion(void);
