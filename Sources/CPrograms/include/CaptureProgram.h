#pragma once
#include "ProgramBytes.h"

/// The object made from bpf/capture.bpf.c.
struct program_bytes program_capture(void);
