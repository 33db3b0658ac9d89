#pragma once
#include "ProgramBytes.h"

/// The object made from bpf/hold.bpf.c.
struct program_bytes program_hold(void);
